"""The server app."""

from fedjax_gen.deployment.flower import relays

app = relays.server_app()
