"""The suite. It is a package so that its helpers can be imported as `tests.support`."""
