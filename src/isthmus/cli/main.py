"""The program `isthmus`: finds the command, reads its line, runs it, and tells what went wrong, with an exit code.

Exit codes: 0; 1 the daemon said no or is not there; 125 the command line is wrong, nothing was done; 126 and 127 as
shells have them, and the program's own, for `run`, `exec` and `sandbox exec`; 130 after Ctrl-C; 141 when nobody reads
what we print.
"""

import os
import sys
from collections.abc import Iterable, Sequence

from isthmus import __version__
from isthmus.cli.flags import HOST, SEE, Arguments, Command, Flag, Kind, UsageError, help_text, parse
from isthmus.errors import InvalidRequest, IsthmusError

_GROUPS = {
    "container": "Manage containers: programs that run in sandboxes",
    "image": "Manage images",
    "network": "Manage networks",
    "node": "Show the hosts that share a store with this one",
    "sandbox": "Manage sandboxes: network namespaces that stand on networks",
    "link": "Manage interfaces that are put into sandboxes by hand",
}
_COMMANDS = {
    "attach": "Stand at the streams of a container",
    "create": "Create a container",
    "daemon": "Run the daemon (its flags: isthmus daemon --help)",
    "dns": "Show what a sandbox's name stands for, or all names",
    "events": "Show what happens, as it happens",
    "exec": "Run a program in a container that runs",
    "images": "List images",
    "import": "Make an image of an archive of a root file system",
    "info": "Show facts about the daemon and its machine",
    "inspect": "Show all there is to know about containers, sandboxes, images or networks",
    "kill": "Send containers a signal",
    "load": "Load images from an archive",
    "logs": "Show what a container wrote",
    "nat": "Show the NAT rules with their counters",
    "pause": "Have containers stand still",
    "port": "Show which ports of the host lead to a sandbox",
    "ps": "List containers",
    "publish": "Publish more ports of a sandbox",
    "pull": "Fetch an image from a registry",
    "rename": "Give a container another name",
    "restart": "Have containers end and start again",
    "rm": "Remove containers",
    "rmi": "Remove images",
    "run": "Run a program in a new container",
    "start": "Start containers",
    "stop": "Have containers end",
    "top": "Show the processes of a container",
    "unpause": "Have containers go on",
    "unpublish": "Publish ports of a sandbox no more",
    "version": "Show the versions of the program and the daemon",
    "wait": "Wait until containers end",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (that of the process, if None) and give its exit code. Nothing is ever raised."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except IsthmusError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # What is left in the buffer must not be written at exit, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        return _fail(f"isthmus: {error}", 1)
    return code


def _fail(message: str, code: int) -> int:
    sys.stdout.flush()
    print(message, file=sys.stderr)
    return code


def _run(words: Sequence[str]) -> int:
    top = Command(
        "isthmus",
        "[OPTIONS] COMMAND",
        "Container networking for anything that has a network namespace",
        _no_command,
        (HOST, Flag("version", "Show the version", Kind.SWITCH, "v")),
        most=None,
        interspersed=False,
    )
    arguments = parse(top, words)
    if arguments is None:
        return _print(_overview(top))
    if arguments.on("version"):
        return _print(f"isthmus version {__version__}")
    if not arguments.words:
        return _no_command(arguments)
    name, *rest = arguments.words
    host = arguments.text("host")
    if name == "daemon":
        from isthmus.cli import daemon

        return daemon.run(rest, host)
    if name in _GROUPS:
        return _run_group(name, rest, host)
    command = _single(name)
    if command is None:
        raise InvalidRequest(f"isthmus: unknown command: isthmus {name}\n\n{SEE.format('isthmus')}")
    return _run_command(command, rest, host)


def _no_command(arguments: Arguments) -> int:
    return _print(_overview(arguments.command))


def _print(text: str) -> int:
    print(text)
    return 0


def _overview(top: Command) -> str:
    flags = help_text(top).partition("Options:\n")[2]
    return "\n".join(
        [
            top.usage,
            "",
            top.summary,
            "",
            "Management Commands:",
            *_table(_GROUPS.items()),
            "",
            "Commands:",
            *_table(_COMMANDS.items()),
            "",
            "Global Options:",
            flags,
            "",
            SEE.format("isthmus COMMAND") + " on a command.",
        ]
    )


def _table(items: Iterable[tuple[str, str]]) -> list[str]:
    return [f"  {name:<12}{summary}" for name, summary in items]


def _single(name: str) -> Command | None:  # noqa: PLR0911 - one for each file
    """Give the command of this name that belongs to no group."""
    match name:
        case "dns":
            from isthmus.cli import dns

            return dns.COMMAND
        case "nat":
            from isthmus.cli import nat

            return nat.COMMAND
        case "port" | "publish" | "unpublish":
            from isthmus.cli import port

            return {"port": port.PORT, "publish": port.PUBLISH, "unpublish": port.UNPUBLISH}[name]
        case "version" | "info" | "events":
            from isthmus.cli import system

            return {"version": system.VERSION, "info": system.INFO, "events": system.EVENTS}[name]
        case "images" | "rmi" | "pull" | "load" | "import":
            from isthmus.cli import image

            return image.SHORT[name]
        case _ if name in _COMMANDS:
            from isthmus.cli import container

            return container.single(name)
        case _:
            return None


def _group(name: str) -> tuple[Command, ...]:
    """Give the commands of the group *name*."""
    match name:
        case "container":
            from isthmus.cli import container

            return container.COMMANDS
        case "image":
            from isthmus.cli import image

            return image.COMMANDS
        case "network":
            from isthmus.cli import network

            return network.COMMANDS
        case "node":
            from isthmus.cli import node

            return node.COMMANDS
        case "sandbox":
            from isthmus.cli import sandbox

            return sandbox.COMMANDS
        case _:
            from isthmus.cli import link

            return link.COMMANDS


def _run_group(name: str, words: Sequence[str], host: str) -> int:
    commands = _group(name)
    group = Command(f"isthmus {name}", "COMMAND", _GROUPS[name], _no_command, most=None, interspersed=False)
    arguments = parse(group, words, host)
    if arguments is None or not arguments.words:
        table = _table([(command.name, command.summary) for command in commands])
        lines = [
            group.usage,
            "",
            group.summary,
            "",
            "Commands:",
            *table,
            "",
            SEE.format(f"{group.path} COMMAND") + " on a command.",
        ]
        return _print("\n".join(lines))
    word, *rest = arguments.words
    command = next((command for command in commands if word in {command.name, *command.aliases}), None)
    if command is None:
        raise UsageError(group, f"isthmus: unknown command: {group.path} {word}")
    return _run_command(command, rest, arguments.text("host", host))


def _run_command(command: Command, words: Sequence[str], host: str) -> int:
    arguments = parse(command, words, host)
    return _print(help_text(command)) if arguments is None else command.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
