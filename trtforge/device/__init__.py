"""Finishing on a device over SSH: this end (`build`, `link`) and what it runs on the other (`far`)."""
