"""The daemon: one process a user, which keeps the environments mounted and serves the socket.

`process` is its life from start to end, `server` the socket, `calls` one request; what the
requests mean is the service's business. Nothing here knows the order of steps of an operation on
an environment: `environment/` does.
"""
