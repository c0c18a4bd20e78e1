"""The Open Inference Protocol over gRPC: the same checks, queue and answers as over HTTP.

Only a worker process may import what needs the package grpc: its threads do not survive a fork.
"""
