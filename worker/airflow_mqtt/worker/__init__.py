"""What runs on the device: one small process that never imports Airflow. See `docs/explanation/architecture.md`."""
