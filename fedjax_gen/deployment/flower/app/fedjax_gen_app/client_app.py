"""The client app."""

from fedjax_gen.deployment.flower import relays

app = relays.client_app()
