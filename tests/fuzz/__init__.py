"""Fuzzes what reads the input of users and strangers."""
