"""Publishes events to keyrepack: topology, publisher, signing, transports."""
