"""Which IP addresses belong to the public internet."""

from __future__ import annotations

import ipaddress

_SPECIAL = (
    # IANA's special-purpose registries, written out: what `is_global` covers differs between
    # Pythons.
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
    "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4",
    "168.63.129.16/32",  # Azure's metadata: it looks public and is not
    # Of IPv6, what is not global unicast, and within that what tunnels to IPv4 or is not routed.
    "::/3", "4000::/2", "8000::/1",
    "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
)  # fmt: skip
_CLOSED = tuple(map(ipaddress.ip_network, _SPECIAL))
# IPv6 addresses that contain an IPv4 address, which is then the one that counts: ::ffff:a.b.c.d,
# and NAT64 of networks without IPv4.
_CARRIERS = (ipaddress.ip_network("::ffff:0:0/96"), ipaddress.ip_network("64:ff9b::/96"))


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the open internet's, of a single machine there."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # such as one with a zone, fe80::1%eth0
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return False
        if any(parsed in network for network in _CARRIERS):
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)))
        # ISATAP: an IPv4 address within any prefix
        if (int(parsed) >> 32) & 0xFDFF_FFFF == 0x0000_5EFE:
            return False
    return parsed.is_global and not any(
        parsed in network for network in _CLOSED if network.version == parsed.version
    )
