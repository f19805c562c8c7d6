# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said over rtnetlink about devices, bridge ports, addresses and routes.

Each function makes one request, to be sent by `NetlinkSocket.transact` alone or in a
batch, or reads one reply. Each subject has a module in this package; the names that
others use are all here. See rtnetlink(7).
"""

from __future__ import annotations

from .addresses import RTM_DELADDR as RTM_DELADDR
from .addresses import RTM_DELROUTE as RTM_DELROUTE
from .addresses import RTM_NEWADDR as RTM_NEWADDR
from .addresses import RTM_NEWROUTE as RTM_NEWROUTE
from .addresses import RTNLGRP_IPV4_IFADDR as RTNLGRP_IPV4_IFADDR
from .addresses import RTNLGRP_IPV4_ROUTE as RTNLGRP_IPV4_ROUTE
from .addresses import RTNLGRP_IPV6_IFADDR as RTNLGRP_IPV6_IFADDR
from .addresses import add_address as add_address
from .addresses import used_networks as used_networks
from .layout import AF_BRIDGE as AF_BRIDGE
from .layout import IFINFO as IFINFO
from .layout import RTM_SETLINK as RTM_SETLINK
from .links import IFF_ALLMULTI as IFF_ALLMULTI
from .links import IFF_LOWER_UP as IFF_LOWER_UP
from .links import IFF_NOARP as IFF_NOARP
from .links import IFF_PROMISC as IFF_PROMISC
from .links import IFF_UP as IFF_UP
from .links import IFLA_ADDRESS as IFLA_ADDRESS
from .links import IFLA_ALT_IFNAME as IFLA_ALT_IFNAME
from .links import IFLA_IFNAME as IFLA_IFNAME
from .links import IFLA_INFO_KIND as IFLA_INFO_KIND
from .links import IFLA_INFO_SLAVE_DATA as IFLA_INFO_SLAVE_DATA
from .links import IFLA_LINKINFO as IFLA_LINKINFO
from .links import IFLA_MASTER as IFLA_MASTER
from .links import IFLA_MTU as IFLA_MTU
from .links import IFLA_PROP_LIST as IFLA_PROP_LIST
from .links import IFLA_STATS64 as IFLA_STATS64
from .links import RTM_DELLINK as RTM_DELLINK
from .links import RTM_NEWLINK as RTM_NEWLINK
from .links import RTNLGRP_LINK as RTNLGRP_LINK
from .links import Link as Link
from .links import add_altname as add_altname
from .links import add_bridge as add_bridge
from .links import delete_link as delete_link
from .links import get_link as get_link
from .links import link_came_up as link_came_up
from .links import link_family as link_family
from .links import link_index as link_index
from .links import links as links
from .links import parse_link as parse_link
from .links import set_link as set_link
from .links import set_link_by_name as set_link_by_name
from .neighbours import NTF_EXT_LOCKED as NTF_EXT_LOCKED
from .neighbours import NUD_NOARP as NUD_NOARP
from .neighbours import NUD_PERMANENT as NUD_PERMANENT
from .neighbours import RTM_DELNEIGH as RTM_DELNEIGH
from .neighbours import RTM_NEWNEIGH as RTM_NEWNEIGH
from .neighbours import RTNLGRP_NEIGH as RTNLGRP_NEIGH
from .neighbours import Neighbour as Neighbour
from .neighbours import add_fdb as add_fdb
from .neighbours import delete_fdb as delete_fdb
from .neighbours import fdb_entries as fdb_entries
from .neighbours import get_fdb as get_fdb
from .neighbours import parse_neighbour as parse_neighbour
from .neighbours import put_fdb_back as put_fdb_back
from .ports import IFLA_BRPORT_LEARNING as IFLA_BRPORT_LEARNING
from .ports import IFLA_BRPORT_LOCKED as IFLA_BRPORT_LOCKED
from .ports import IFLA_BRPORT_MAB as IFLA_BRPORT_MAB
from .ports import IFLA_PROTINFO as IFLA_PROTINFO
from .ports import PORT_SETTINGS as PORT_SETTINGS
from .ports import parse_port as parse_port
from .ports import port_attribute as port_attribute
from .ports import set_port as set_port
