"""Which models there are (``models/catalogue.toml``) and what each file must be (``lock.json``)."""
