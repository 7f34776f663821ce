"""Tables of a Production-scale dataset, generated from its spec (spec: production-9.4 to production-9.6).

The tables are small: domains, categories, cities and their parameters. Users and items have no tables; they are
computed per row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ctrbench.synthetic.production.domains import Domains, make_domains
from ctrbench.synthetic.production.ids import Ids, make_ids
from ctrbench.synthetic.production.spec import ProductionSpec
from ctrbench.synthetic.production.traffic import Traffic, make_traffic
from ctrbench.synthetic.production.true_parameters import Truth, make_truth


@dataclass(frozen=True, kw_only=True)
class World:
    """All tables of a dataset."""

    spec: ProductionSpec
    domains: Domains
    ids: Ids
    traffic: Traffic
    truth: Truth


@lru_cache(maxsize=2)
def make_world(spec: ProductionSpec) -> World:
    """Generate the tables of a dataset; the last two results are cached."""
    domains = make_domains(spec)
    traffic = make_traffic(spec, domains)
    return World(
        spec=spec,
        domains=domains,
        ids=make_ids(spec, domains),
        traffic=traffic,
        truth=make_truth(spec, domains),
    )
