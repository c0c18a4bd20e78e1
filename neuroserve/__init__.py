"""What a user of a neuroserve service imports: `neuroserve.client`, and the `neuroserve` command."""
