"""What `policy/*.schema.json` say of a file, as faults that a person can act on.

The schemas are the one place for fields, their bounds, their defaults and the words of their faults
(`errorMessage`, which editors show too). Nothing here knows a field's name; what two values must be
to each other is asked elsewhere.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, TypeChecker, ValidationError, validators

from issuer.policy.yaml_document import Document, Fault
from issuer.policy.yaml_document import Path as FieldPath

#: Where the schemas and the shipped kinds of LLM servers are.
DIRECTORY = Path(__file__).resolve().parents[2] / "policy"
POLICY, SERVER = "policy.schema.json", "server.schema.json"


def _is_whole(_: TypeChecker, value: object) -> bool:
    """Neither true nor 1.0 is a whole number."""
    return type(value) is int


def _pattern(_: object, pattern: str, value: object, __: object) -> Iterator[ValidationError]:
    """A schema's `$` is ECMA's, the very end; Python's would let a newline pass behind."""
    if isinstance(value, str) and not re.search(pattern.replace("$", r"\Z"), value, re.ASCII):
        yield ValidationError("does not match")


_Validator: type[Draft202012Validator] = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {"pattern": _pattern},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_whole),
)


@cache
def read(name: str) -> Mapping[str, Any]:
    """One of the schemas."""
    content: dict[str, Any] = json.loads((DIRECTORY / name).read_text(encoding="utf-8"))
    return content


def defaults(name: str, part: str) -> Mapping[str, Any]:
    """The defaults that a schema's part gives to its fields."""
    fields = read(name)["$defs"][part]["properties"].items()
    return {field: rule["default"] for field, rule in fields if "default" in rule}


def faults_of(document: Document, name: str) -> Iterator[Fault]:
    """Every fault of what a file says. What could not be read has been told already."""
    schema = read(name)
    for error in _Validator(schema).iter_errors(document.value):
        for path, text in _told(error, schema):
            if not document.is_faulty(path):
                yield document.fault(path, text)


def _told(error: ValidationError, schema: Mapping[str, Any]) -> Iterator[tuple[FieldPath, str]]:
    path = tuple(error.absolute_path)
    rule: Any = error.schema
    value: Any = error.instance
    if error.validator == "additionalProperties":
        for name in value.keys() - rule["properties"].keys():
            yield (*path, name), "is not a known field"
    elif error.validator == "required":
        for name in _missing(rule, value):
            its = _resolved(rule["properties"][name], schema)
            yield (*path, name), f"is missing; it {its['errorMessage']}"
    elif "propertyNames" in error.absolute_schema_path:
        yield (*path, value), rule["errorMessage"]
    else:
        yield path, rule["errorMessage"]


def _missing(rule: Mapping[str, Any], value: Mapping[str, Any]) -> Iterator[str]:
    """All that are; jsonschema has an error for each. One that is there by its former name is told
    as that.
    """
    fields = rule["properties"]
    former = {fields[name].get("formerNameOf") for name in value if name in fields}
    return (name for name in rule["required"] if name not in value and name not in former)


def _resolved(rule: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = rule.get("$ref", "").removeprefix("#/$defs/")
    found: Mapping[str, Any] = schema["$defs"][reference] if reference else rule
    return found
