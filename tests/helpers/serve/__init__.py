"""Servers, clients and page visits for tests."""
