"""Whose address it is, as far as an address tells: the network that one person has to themselves."""

from ipaddress import IPv6Address, ip_address

# A household or a company gets a /64 at least, and may call from any of its 2^64 addresses.
IPV4_BITS, IPV6_BITS = 32, 64


def network_of(address: str, ipv4_bits: int = IPV4_BITS, ipv6_bits: int = IPV6_BITS) -> str:
    """Return the network that the address lies in. IPv4 written as IPv6 (RFC 4291, section 2.5.5.2) is IPv4; what is no address stays as it is."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is None:
            # By arithmetic: a zone, as in fe80::1%eth0, is no part of the network.
            rest = 128 - ipv6_bits
            return f"{IPv6Address(int(parsed) >> rest << rest)}/{ipv6_bits}"
        parsed = parsed.ipv4_mapped
    rest = 32 - ipv4_bits
    return str(parsed) if rest == 0 else f"{type(parsed)(int(parsed) >> rest << rest)}/{ipv4_bits}"
