"""The controllers: one file each, pure decisions under one runner."""
