"""The parts of a version's report; `training.report` puts them together."""
