"""An exhaustive search of the protocol over bounded instances. See `docs/explanation/model.md`."""
