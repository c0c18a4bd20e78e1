"""Why a model answered as it did: weights of pixels, words and steps, from runs of the model on altered inputs."""
