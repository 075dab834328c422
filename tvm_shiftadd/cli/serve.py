"""``tvm-shiftadd serve``: a device for artifacts of the accelerator that run elsewhere."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated

import typer

from tvm_shiftadd.cli import options, output

HELP = "Offer an accelerator's device to other programs."


@dataclass(frozen=True)
class Config:
    """One call of ``serve``."""

    machine: str
    device: str
    host: str
    port: int
    key: str
    limit: float


def command(
    machine: Annotated[
        str, typer.Argument(help="A preset's name, or a JSON file of parameters.")
    ] = "shift-16x16",
    device: Annotated[
        str,
        typer.Option("--device", help="sim, timing, rtl, serial:PORT or pynq:FILE, as for run."),
    ] = "sim",
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 0,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            envvar=options.KEY_VARIABLE,
            help="The secret that clients must know; default: a new one.",
        ),
    ] = None,
    limit: Annotated[
        float, typer.Option("--time-limit", help="The most seconds of one run of one program.")
    ] = 60.0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Print address and key, then serve until interrupted."""
    config = Config(machine, device, host, port, key or secrets.token_hex(16), limit)
    _serve(config, json)


def _serve(config: Config, json: bool) -> None:
    from vta_ext import presets
    from vta_ext.runtime import server
    from vta_ext.runtime.drivers import open_device

    machine = presets.machine(config.machine)
    chosen = machine.config

    def ready(port: int) -> None:
        address = f"{config.host}:{port}"
        if json:
            said = {"address": address, "key": config.key, "configuration": chosen.hash}
            output.print_json({**said, "device": config.device})
        else:
            output.print_lines(
                f"{config.device} of {config.machine} (configuration {chosen.hash}) at {address}",
                f"tvm-shiftadd run ARTIFACT --rpc {address} --key {config.key} ...",
                "Whoever has the key can run programs here. Ctrl-C ends it.",
            )

    server.serve(
        lambda limit: open_device(config.device, chosen, limit, machine.memory_bits),
        key=config.key,
        host=config.host,
        port=config.port,
        limit=config.limit,
        log=lambda text: output.console(error=True).print(text, markup=False),
        ready=ready,
    )
