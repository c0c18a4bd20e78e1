"""The offline wing: data, networks, fitting, export and the gate. Never imports `service`."""
