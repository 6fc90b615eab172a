"""The one reader of a caller's token."""

import pytest

from issuer import bearer
from issuer.errors import TokenRefused

A, B = "aaa.bbb.ccc", "ddd.eee.fff"


@pytest.mark.parametrize(
    ("headers", "by_cookie"),
    [
        pytest.param({"Authorization": f"Bearer {A}"}, False, id="bearer"),
        pytest.param({"Authorization": f"bearer {A}"}, False, id="bearer in lower case"),
        pytest.param({"Authorization": f"BEARER {A}"}, False, id="bearer in capitals"),
        pytest.param({"X-Api-Key": A}, False, id="x-api-key"),
        pytest.param({"Cookie": f"auth_token={A}"}, True, id="cookie"),
        pytest.param({"Cookie": f"x=1; auth_token={A}; y=2"}, True, id="cookie among others"),
        pytest.param({"Cookie": f"x=1;auth_token={A};y=2"}, True, id="cookies without spaces"),
        pytest.param({"Cookie": f"a=b=c; auth_token={A}"}, True, id="cookie after an odd one"),
        pytest.param(
            {"Authorization": f"Bearer {A}", "X-Api-Key": A, "Cookie": f"auth_token={A}"},
            False,
            id="one token three times",
        ),
        pytest.param({"Cookie": f"auth_token={A}; auth_token={A}"}, True, id="same cookie twice"),
    ],
)
def test_one_token_is_read(headers: dict[str, str], by_cookie: bool) -> None:
    assert bearer.read(headers.get) == bearer.Presented(A, by_cookie)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"Cookie": ""}, id="no cookie"),
        pytest.param({"Cookie": f"AUTH_TOKEN={A}"}, id="H4 the name in capitals"),
        pytest.param({"Cookie": f"x=1,auth_token={A}"}, id="H4 after a comma"),
        pytest.param({"Cookie": f"xauth_token={A}"}, id="H4 a longer name"),
        pytest.param({"Cookie": f"auth_token2={A}"}, id="H4 another longer name"),
        pytest.param({"Cookie": f"auth_token ={A}"}, id="a space before the equals sign"),
        pytest.param({"Cookie": f"auth_token={A}; auth_token={B}"}, id="H4 two cookies"),
        pytest.param({"Authorization": f"Bearer {A}", "X-Api-Key": B}, id="bearer and key differ"),
        pytest.param(
            {"Authorization": f"Bearer {A}", "Cookie": f"auth_token={B}"},
            id="H2 bearer and cookie differ",
        ),
        pytest.param({"X-Api-Key": A, "Cookie": f"auth_token={B}"}, id="H2 key and cookie differ"),
        pytest.param(
            {"Authorization": "Bearer", "Cookie": f"auth_token={A}"},
            id="H2 no way back from a bad bearer to a good cookie",
        ),
        pytest.param(
            {"Authorization": "Basic dTpw", "Cookie": f"auth_token={A}"},
            id="H2 no way back from Basic to a good cookie",
        ),
        pytest.param({"X-Api-Key": "", "Cookie": f"auth_token={A}"}, id="H2 nor from an empty key"),
    ],
)
def test_none_and_more_than_one_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(TokenRefused):
        bearer.read(headers.get)


@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        "Bearer ",
        f"Bearer  {A}",
        f"Bearer\t{A}",
        f"Bearer {A} ",
        f"Bearer {A} {B}",
        f"Bearer {A},{B}",
        f"Bearer {A}, Bearer {A}",
        f" Bearer {A}",
        f"Token {A}",
        f"Basic {A}",
        f"Bearer={A}",
        f"Bearer\u00a0{A}",
        A,
        "",
    ],
)
def test_h3_no_other_authorization_gives_a_token_that_could_be_good(value: str) -> None:
    try:
        presented = bearer.read({"Authorization": value}.get)
    except TokenRefused:
        return
    assert presented == bearer.Presented("", by_cookie=False)


@pytest.mark.parametrize(
    "query", ["QUERY_STRING", "token", "access_token", "Proxy-Authorization", "X-Auth-Token"]
)
def test_i2_no_other_place_is_looked_at(query: str) -> None:
    with pytest.raises(TokenRefused):
        bearer.read({query: A}.get)


def test_o4_a_space_after_the_cookie_is_part_of_it_as_at_the_gateway() -> None:
    assert bearer.read({"Cookie": f"auth_token={A} ; x=1"}.get).token != A
