"""What outlives the processes that a test has stopped."""

from pathlib import Path

from airflow_mqtt.worker import job_files, processes


def end_runners(directory: Path) -> None:
    """End the runners of workers whose state directories are `directory`/*/state*: they go on without their worker."""
    for state in directory.glob("*/state*"):
        for files in job_files.directories(state):
            process = files.read_runner()
            if process is not None:
                processes.kill_attempt(files.mark, process)
