"""What the service says when it is ready: its address, the device it really got, three calls to try."""

from __future__ import annotations

from typing import Any

from service.openapi import EXAMPLES


def text(address: tuple[Any, ...], report: dict[str, Any], workers: int) -> str:
    host, port = address[0], address[1]
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - shown, not bound
    at = f"[{shown}]" if ":" in shown else shown
    url = f"http://{at}:{port}"
    providers = sorted(set(report["providers"].values())) or ["none"]
    note = f", for {report['note']}" if report["note"] else ""
    problems = [f"  NOT READY   {name}: {problem}" for name, problem in report["problems"].items()]
    return "\n".join(
        [
            "",
            f"  neuroserve  {url}   {workers} worker{'s' if workers > 1 else ''}, trainer {report['trainer']}",
            *([f"  gRPC        {at}:{report['grpc_port']}"] if report["grpc_port"] is not None else []),
            f"  device      {', '.join(providers)}{note}",
            f"  try it      {url}/   every call: {url}/docs",
            *problems,
            "",
            f"  curl -s {url}/predict/digit -H 'Content-Type: image/png' --data-binary @{EXAMPLES}/seven.png",
            f"  curl -s {url}/predict/sequence -H 'Content-Type: application/json' -d @{EXAMPLES}/headline.json",
            f"  curl -s {url}/predict/sequence -H 'Content-Type: application/json' -d @{EXAMPLES}/week.json",
            "",
        ]
    )
