"""Go templates, as far as people write them behind `--format`.

There are fields (`.Name`, `.IPAM.Config`), `$` and variables, text, numbers, parentheses, pipelines, `{{-` and `-}}`,
comments, `if`/`else if`/`else`, `range` and `with`, each with `else`, and the functions of `_FUNCTIONS`. What is not
there is an error that says so. A template becomes a function, by closures: parsed once, then called for each row.

A name that the outermost object has not is an error, as it is a typing mistake; one that an inner object has not is
`<no value>`, as it may be an absent label. Go's rules for text are kept: `true`, `[a b]`, `map[a:1 b:2]`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from isthmus.cli.output import to_json
from isthmus.errors import InvalidRequest

Scope = dict[str, object]
"""The variables; `.` is the value that fields are of, `$` the outermost."""

Expression = Callable[[Scope], object]
Piece = Callable[[Scope], str]

_ACTION = re.compile(
    r"\{\{(-(?=\s))?((?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|/\*.*?\*/|(?!\}\}).)*?)(?:(?<=\s)(-))?\}\}", re.DOTALL
)
_TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<text>"(?:\\.|[^"\\])*"|`[^`]*`) | (?P<number>[-+]?\d+(?:\.\d+)?)
    | (?P<field>\.[A-Za-z_]\w*) | (?P<dot>\.) | (?P<variable>\$\w*) | (?P<word>[A-Za-z_]\w*) | (?P<sign>:=|=|[|(),])""",
    re.VERBOSE,
)
_VERB = re.compile(r"%([-+ 0#]*)(\d*)(?:\.(\d+))?([vsdqtfgx%])")
_ABSENT = "<no value>"


class TemplateError(InvalidRequest):
    """The template cannot be understood, or does not fit what it is given."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"template parsing error: {problem}")


def compile_template(source: str) -> Callable[[object], str]:
    """Give the function that renders a value by the template *source*; both raise TemplateError."""
    reader = _Reader(_cut(source))
    body, end = reader.body()
    if end:
        raise TemplateError(f"unexpected {{{{{end}}}}}")
    return lambda value: body({".": value, "$": value})


def show(value: object) -> str:
    """Write *value* as Go prints it."""
    match value:
        case None:
            return _ABSENT
        case bool():
            return "true" if value else "false"
        case dict():
            return f"map[{' '.join(f'{key}:{_inner(item)}' for key, item in sorted(value.items()))}]"
        case list():
            return f"[{' '.join(map(_inner, value))}]"
        case _:
            return str(value)


def _inner(value: object) -> str:
    return "<nil>" if value is None else show(value)


def _cut(source: str) -> Iterator[tuple[bool, str]]:
    """Cut *source* into plain text (False) and actions (True)."""
    at, trim = 0, False
    for match in _ACTION.finditer(source):
        plain = source[at : match.start()]
        plain = plain.lstrip() if trim else plain
        yield False, plain.rstrip() if match[1] else plain
        action = match[2].strip()
        if not (action.startswith("/*") and action.endswith("*/")):
            yield True, action
        at, trim = match.end(), bool(match[3])
    rest = source[at:]
    if "{{" in rest:
        raise TemplateError("unclosed action")
    yield False, rest.lstrip() if trim else rest


class _Reader:
    """Reads the pieces of a template up to the `end` or `else` that closes a body."""

    def __init__(self, pieces: Iterator[tuple[bool, str]]) -> None:
        self._pieces = pieces

    def body(self) -> tuple[Piece, str]:
        """Give what renders the text up to the closing action, and that action ("" at the end of the template)."""
        parts: list[Piece] = []
        for is_action, content in self._pieces:
            keyword, _, rest = content.partition(" ")
            if not is_action:
                parts.append(_constant(content))
            elif content == "end" or keyword == "else":
                return _joined(parts), content
            elif keyword in {"if", "range", "with"}:
                parts.append(self._block(keyword, rest))
            else:
                parts.append(_output(content))
        return _joined(parts), ""

    def _block(self, keyword: str, rest: str) -> Piece:
        names, value = _Parser(rest).declaration()
        inside, end = self.body()
        otherwise = _constant("")
        if end.startswith("else "):
            again, _, condition = end.removeprefix("else ").strip().partition(" ")
            if again != keyword or keyword == "range":
                raise TemplateError(f"unexpected {{{{{end}}}}}")
            otherwise, end = self._block(keyword, condition), "end"
        elif end == "else":
            otherwise, end = self.body()
        if end != "end":
            raise TemplateError(f"{{{{{keyword}}}}} has no {{{{end}}}}")
        if keyword == "range":
            return _range(names, value, inside, otherwise)
        return _choice(names, value, inside, otherwise, enter=keyword == "with")


def _constant(content: str) -> Piece:
    return lambda _: content


def _joined(parts: Sequence[Piece]) -> Piece:
    return lambda scope: "".join(part(scope) for part in parts)


def _output(content: str) -> Piece:
    names, value = _Parser(content).declaration()
    if not names:
        return lambda scope: show(value(scope))
    if len(names) > 1:
        raise TemplateError("two variables need a range")

    def assign(scope: Scope) -> str:
        scope[names[0]] = value(scope)
        return ""

    return assign


def _choice(names: Sequence[str], value: Expression, inside: Piece, otherwise: Piece, *, enter: bool) -> Piece:
    def render(scope: Scope) -> str:
        found = value(scope)
        inner = scope | dict.fromkeys(names, found) | ({".": found} if enter else {})
        return inside(inner) if found else otherwise(scope)

    return render


def _range(names: Sequence[str], value: Expression, inside: Piece, otherwise: Piece) -> Piece:
    def render(scope: Scope) -> str:
        found = value(scope)
        items: list[tuple[object, object]]
        match found:
            case dict():
                items = sorted(found.items())
            case list():
                items = list(enumerate(found))
            case None:
                items = []
            case _:
                raise TemplateError(f"range can't iterate over {show(found)}")
        rendered = [
            inside(scope | {".": item} | dict(zip(names, (key, item) if len(names) > 1 else (item,), strict=False)))
            for key, item in items
        ]
        return "".join(rendered) if items else otherwise(scope)

    return render


class _Parser:
    """Parses what stands in one action."""

    def __init__(self, content: str) -> None:
        self._content = content
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(content):
            match = _TOKEN.match(content, at)
            if not match or match.lastgroup is None:
                raise TemplateError(f'unexpected "{content[at]}" in {{{{{content}}}}}')
            self._tokens.append((match.lastgroup, match[0]))
            at = match.end()
        self._at = 0

    def declaration(self) -> tuple[list[str], Expression]:
        """Parse `$a, $b := pipeline`, or a pipeline alone; give the names and the pipeline."""
        names: list[str] = []
        if any(token == ("sign", ":=") for token in self._tokens):
            while True:
                self._spaces()
                names.append(self._take("variable"))
                self._spaces()
                if self._take("sign") == ":=":
                    break
        value = self._pipeline()
        if self._at < len(self._tokens):
            raise self._unexpected()
        return names, value

    def _pipeline(self) -> Expression:
        value = self._command(None)
        while self._peek() == ("sign", "|"):
            self._at += 1
            value = self._command(value)
        return value

    def _command(self, piped: Expression | None) -> Expression:
        """Parse a function and its operands, or one operand; what was piped becomes the last operand."""
        self._spaces()
        kind, word = self._peek()
        arguments: list[Expression] = []
        function: Expression | None = None
        named = kind == "word" and word not in {"true", "false", "nil"}
        if named:
            if word not in _FUNCTIONS:
                raise TemplateError(f'function "{word}" not defined (there are {", ".join(sorted(_FUNCTIONS))})')
            self._at += 1
        else:
            function = self._operand()
        while self._spaces() and self._peek() not in {("", ""), ("sign", "|"), ("sign", ")")}:
            arguments.append(self._operand())
        arguments += [piped] if piped else []
        if named:
            return _call(word, _FUNCTIONS[word], arguments)
        if function is None:
            raise self._unexpected()
        return _call_value(function, arguments) if arguments else function

    def _operand(self) -> Expression:
        kind, word = self._peek()
        self._at += 1
        value: Expression
        match kind:
            case "field":
                value = _field(lambda scope: scope["."], word[1:])
            case "dot":
                value = _variable(".")
            case "variable":
                value = _variable(word)
            case "text":
                value = _literal(_unquote(word))
            case "number":
                value = _literal(float(word) if "." in word else int(word))
            case "word" if word in {"true", "false", "nil"}:
                value = _literal({"true": True, "false": False, "nil": None}[word])
            case "word" if word in _FUNCTIONS:
                value = _call(word, _FUNCTIONS[word], [])
            case "sign" if word == "(":
                value = self._pipeline()
                if self._take("sign") != ")":
                    raise self._unexpected()
            case _:
                self._at -= 1
                raise self._unexpected()
        while self._peek()[0] == "field":
            value = _field(value, self._take("field")[1:])
        return value

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("", "")

    def _take(self, kind: str) -> str:
        found, word = self._peek()
        if found != kind:
            raise self._unexpected()
        self._at += 1
        return word

    def _spaces(self) -> bool:
        """Pass over white space; always true, for use in a condition."""
        if self._peek()[0] == "space":
            self._at += 1
        return True

    def _unexpected(self) -> TemplateError:
        word = self._peek()[1] or "end"
        return TemplateError(f"unexpected {word} in {{{{{self._content}}}}}")


def _literal(value: object) -> Expression:
    return lambda _: value


def _variable(name: str) -> Expression:
    def get(scope: Scope) -> object:
        if name not in scope:
            raise TemplateError(f'undefined variable "{name}"')
        return scope[name]

    return get


def _field(of: Expression, name: str) -> Expression:
    def get(scope: Scope) -> object:
        value = of(scope)
        match value:
            case dict():
                try:
                    return value[name]
                except KeyError:
                    if value is not scope["$"]:
                        return None
                names = ", ".join(f".{key}" for key in value)
                raise TemplateError(f"there is no field .{name} (there are {names})")
            case None:
                return None
            case _:
                raise TemplateError(f"can't take field {name} of {show(value)}")

    return get


def _call(name: str, function: Callable[..., object], arguments: Sequence[Expression]) -> Expression:
    def call(scope: Scope) -> object:
        values = [argument(scope) for argument in arguments]
        try:
            return function(*values)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise TemplateError(f"error calling {name}: {error}") from error

    return call


def _call_value(value: Expression, arguments: Sequence[Expression]) -> Expression:
    def call(scope: Scope) -> object:
        function = value(scope)
        if not callable(function):
            raise TemplateError(f"can't give arguments to non-function {show(function)}")
        return _call("it", function, arguments)(scope)

    return call


def _unquote(word: str) -> str:
    if word.startswith("`"):
        return word[1:-1]
    import json

    try:
        return str(json.loads(word.replace("\t", "\\t").replace("\n", "\\n")))
    except ValueError as error:
        raise TemplateError(f"bad text {word}") from error


# The functions: those of Go's text/template and of Docker's client that make sense here.


def _index(value: object, *keys: object) -> object:
    for key in keys:
        match value, key:
            case dict(), _:
                value = value.get(key, "")
            case ((list() | str()), int()):
                if not 0 <= key < len(value):
                    raise IndexError(f"index out of range: {key}")
                value = value[key]
            case _:
                raise TypeError(f"can't index {show(value)} with {show(key)}")
    return value


def _printf(how: str, *values: object) -> str:
    rest = iter(values)

    def fill(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        value = next(rest, None)
        point = f".{precision}" if precision else ""
        match verb, value:
            case "q", _:
                filled = to_json(show(value))
            case (("d" | "x"), int()):
                return f"%{flags}{width}{verb}" % value
            case (("f" | "g"), (int() | float())):
                return f"%{flags}{width}{point}{verb}" % value
            case (("v" | "s" | "t"), _):
                filled = f"%{point}s" % show(value)
            case _:
                raise ValueError(f"%{verb} does not fit {show(value)}")
        return filled.ljust(int(width or 0)) if "-" in flags else filled.rjust(int(width or 0))

    return _VERB.sub(fill, how)


def _and(first: object, *others: object) -> object:
    return next((value for value in (first, *others) if not value), others[-1] if others else first)


def _or(first: object, *others: object) -> object:
    return next((value for value in (first, *others) if value), others[-1] if others else first)


def _print(*values: object) -> str:
    return "".join(map(show, values))


def _truncate(value: str, length: int) -> str:
    return value[:length]


def _pad(value: str, before: int, after: int) -> str:
    return f"{' ' * before}{value}{' ' * after}" if value else ""


def _length(value: object) -> int:
    match value:
        case str():
            return len(value.encode())
        case dict() | list():
            return len(value)
        case _:
            raise TypeError(f"{show(value)} has no length")


def _join(values: Sequence[object], separator: str) -> str:
    return separator.join(map(show, values))


def _less(one: object, other: object) -> bool:
    match one, other:
        case ((int() | float()), (int() | float())):
            return one < other
        case str(), str():
            return one < other
        case _:
            raise TypeError(f"can't compare {show(one)} with {show(other)}")


_FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "json": to_json,
    "index": _index,
    "len": _length,
    "print": _print,
    "printf": _printf,
    "println": lambda *values: " ".join(map(show, values)) + "\n",
    "join": _join,
    "split": lambda value, separator: value.split(separator),
    "upper": lambda value: value.upper(),
    "lower": lambda value: value.lower(),
    "title": lambda value: value.title(),
    "truncate": _truncate,
    "pad": _pad,
    "not": lambda value: not value,
    "and": _and,
    "or": _or,
    "eq": lambda value, *others: value in others,
    "ne": lambda one, other: one != other,
    "lt": _less,
    "le": lambda one, other: not _less(other, one),
    "gt": lambda one, other: _less(other, one),
    "ge": lambda one, other: not _less(one, other),
}
