"""Serves a trained learner over HTTP, by Ray Serve: adapt to a support set, then predict."""
