"""An address counts as the network that one person has to themselves."""

import pytest

from app.core.networks import network_of


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("::1", "::/64"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_the_network_of_a_client(address: str, network: str) -> None:
    assert network_of(address) == network


def test_larger_networks_are_asked_for_by_their_bits() -> None:
    assert network_of("192.0.2.7", 24, 48) == "192.0.2.0/24"
    assert network_of("::ffff:192.0.2.7", 24, 48) == "192.0.2.0/24"
    assert network_of("2001:db8:1:2::6", 24, 48) == "2001:db8:1::/48"
