"""Search configs, each headed by its command, the result to expect and the time it takes."""
