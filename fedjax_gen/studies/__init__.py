"""The four systems as studies: what is compared, how it is run and shown."""
