"""One test, or several, for every pitfall of docs/pitfalls.md, named after it."""
