"""Components of the true logit, and the click probability that follows (spec: production-9.6 to production-9.8).

The loops write raw components; the constants of `calibration` center them per scenario and scale them to variance 1, so
that they do not change the level of a domain. The level of a row is 60 % item quality and 40 % user level; quality is
the sum of category, brand, shop and item terms, user level of city, device, activity and user terms. Most of the
variance belongs to values with thousands of rows, and little to single users and items. Brand matches count within a
category only.
B rows of a block, D domains, C categories, P profiles, S scenarios, K content dimensions, H hidden units, T trees.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ctrbench.compiled import compiled
from ctrbench.synthetic.philox import Floats, Integers, normals, uniforms
from ctrbench.synthetic.production.behaviors import (
    EPOCH_SLOTS,
    Catalog,
    category_of,
    phases_of,
    slot_interest,
    slot_item,
    slot_words,
    stint_of,
)
from ctrbench.synthetic.production.rows import brand_of
from ctrbench.synthetic.production.streams import Stream
from ctrbench.synthetic.production.true_parameters import LATENT, TASTE

V_DOMAIN, V_LEVEL, V_TASTE = 0.260, 0.200, 0.200
V_STRUCTURED, V_IDIOSYNCRATIC, V_BEHAVIOR, V_RESIDUAL = 0.260, 0.030, 0.100, 0.150
"""Variances of the components in the logit."""
PARTS = ("level", "taste", "structured", "idiosyncratic", "behaviour")
"""Components that the calibration standardizes; domain level and residual have variance 1 by construction."""
VARIANCES = (V_LEVEL, V_TASTE, V_STRUCTURED, V_IDIOSYNCRATIC, V_BEHAVIOR)
BRAND_MATCH = 0.5
"""Weight of a matching brand, relative to a matching category."""
QUALITY_WEIGHTS = (0.6, 0.5, 0.5, math.sqrt(0.14))
"""Weights of category, brand, shop and item terms."""
LEVEL_WEIGHTS = (0.6, 0.5, 0.5, math.sqrt(0.14))
"""Weights of city, device, activity and user terms."""
MAIN_WEIGHTS = (math.sqrt(0.6), math.sqrt(0.4))
"""Weights of item quality and user level."""
CATEGORY_CONTENT, BRAND_CONTENT, ITEM_CONTENT = 0.8, 0.5, math.sqrt(0.11)
PROFILE_TASTE, CITY_TASTE, USER_TASTE = 0.8, 0.5, math.sqrt(0.11)
"""Weights of category, brand and item in the content vector, and of profile, city and user in the taste vector."""
BID_STD, BID_PRICE = 0.6, 0.1
PRICE_SHARE, PRICE_RANGE = 0.50, 0.45

BILINEAR, MLP, TREE = 0, 1, 2
_USER, _TASTE, _RESIDUAL = int(Stream.USER), int(Stream.USER_TASTE), int(Stream.RESIDUAL)
_ITEM, _CONTENT, _BRAND_CONTENT = int(Stream.ITEM), int(Stream.ITEM_CONTENT), int(Stream.BRAND_CONTENT)
_BRAND, _SHOP, _BID = int(Stream.BRAND), int(Stream.SHOP), int(Stream.BID)
_LABEL = int(Stream.ROW_LABEL)
_LATENT, _TASTES = LATENT, TASTE
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@compiled
def qualities(
    seed: int,
    item_B: Integers,
    category_B: Integers,
    brand_B: Integers,
    shop_B: Integers,
    quality_C: Floats,
    quality_B: Floats,
    noise_B: Floats,
) -> None:
    """Write the quality of each row's item, of variance 1, and the noise of its observed estimate."""
    for i in range(len(item_B)):
        item_term, noise_B[i] = normals(seed, _ITEM, item_B[i])
        brand_term = normals(seed, _BRAND, brand_B[i])[0]
        shop_term = normals(seed, _SHOP, shop_B[i])[0]
        quality_B[i] = (
            QUALITY_WEIGHTS[0] * quality_C[category_B[i]]
            + QUALITY_WEIGHTS[1] * brand_term
            + QUALITY_WEIGHTS[2] * shop_term
            + QUALITY_WEIGHTS[3] * item_term
        )


@compiled
def levels(
    seed: int,
    user_B: Integers,
    city_B: Integers,
    device_B: Integers,
    city: Floats,
    device: Floats,
    level_B: Floats,
) -> None:
    """Write the level of each row's user, of variance 1."""
    for i in range(len(user_B)):
        activity, user_term = normals(seed, _USER, user_B[i])
        level_B[i] = (
            LEVEL_WEIGHTS[0] * city[city_B[i]]
            + LEVEL_WEIGHTS[1] * device[device_B[i]]
            + LEVEL_WEIGHTS[2] * activity
            + LEVEL_WEIGHTS[3] * user_term
        )


class Entities(NamedTuple):
    """Entities of the rows of a block, as indices (B)."""

    user_B: Integers
    profile_B: Integers
    city_B: Integers
    item_B: Integers
    category_B: Integers
    brand_B: Integers
    domain_B: Integers


class Latents(NamedTuple):
    """Latent tables that the content components read; see `world.Truth`."""

    content_CK: Floats
    taste_PT: Floats
    city_taste: Floats
    structured_DK: Floats
    idiosyncratic_DK: Floats
    mlp: tuple[Floats, Floats, Floats, Floats]
    tree: tuple[Integers, Integers, Floats]


class Histories(NamedTuple):
    """Rows of a block as `matches` reads them (B): user, number of behaviors, scenario, and the item's features."""

    user_B: Integers
    slots_B: Integers
    scenario_B: Integers
    category_B: Integers
    brand_B: Integers


@compiled
def contents(
    seed: int, interaction: int, entities: Entities, latents: Latents, content_KB: Floats, parts_3B: Floats
) -> None:
    """Write the item content q (K, B) and what depends on it: taste ⟨z, q⟩, structured and idiosyncratic (3, B)."""
    user_B, profile_B, city_B, item_B, category_B, brand_B, domain_B = entities
    content_CK, taste_PT, city_taste, structured_DK, idiosyncratic_DK, mlp, tree = latents
    q = np.empty(_LATENT)
    for i in range(len(item_B)):
        category_K = content_CK[category_B[i]]
        for pair in range(_LATENT // 2):
            brand = normals(seed, _BRAND_CONTENT, brand_B[i], 0, pair)
            item = normals(seed, _CONTENT, item_B[i], 0, pair)
            for side in range(2):
                k = 2 * pair + side
                q[k] = (
                    CATEGORY_CONTENT * category_K[k] + BRAND_CONTENT * brand[side] + ITEM_CONTENT * item[side]
                )
                content_KB[k, i] = q[k]
        profile, city, taste = taste_PT[profile_B[i]], city_taste[city_B[i]], 0.0
        for pair in range(_TASTES // 2):
            user = normals(seed, _TASTE, user_B[i], 0, pair)
            for side in range(2):
                k = 2 * pair + side
                z = PROFILE_TASTE * profile[k] + CITY_TASTE * city[k] + USER_TASTE * user[side]
                taste += z * q[k]
        parts_3B[0, i] = taste / math.sqrt(_TASTES)
        domain = domain_B[i]
        if interaction == BILINEAR:
            parts_3B[1, i] = _dot_product(structured_DK[domain], q)
        elif interaction == MLP:
            parts_3B[1, i] = network_logit(mlp[0][domain], mlp[1], mlp[2], mlp[3], q)
        else:
            parts_3B[1, i] = _tree_logit(tree[0][domain], tree[1], tree[2], q)
        parts_3B[2, i] = _dot_product(idiosyncratic_DK[domain], q)


@compiled
def _dot_product(first: Floats, second: Floats) -> float:
    total = 0.0
    for k in range(len(first)):
        total += first[k] * second[k]
    return total


@compiled
def network_logit(side_H: Floats, content_KH: Floats, offset_H: Floats, out_H: Floats, q: Floats) -> float:
    """Return the output of a network of 4 H tanh units, odd in both inputs, so that neither has a main effect."""
    total = 0.0
    for h in range(len(out_H)):
        x, m, c = 0.0, side_H[h], offset_H[h]
        for k in range(len(q)):
            x += content_KH[k, h] * q[k]
        total += out_H[h] * (
            math.tanh(c + m + x) - math.tanh(c + m - x) - math.tanh(c - m + x) + math.tanh(c - m - x)
        )
    return total


@compiled
def _tree_logit(side_T: Integers, split_T2: Integers, value_T44: Floats, q: Floats) -> float:
    """Return the sum of the trees; the values of a tree have mean 0 over the leaves of each side."""
    total = 0.0
    for t in range(len(side_T)):
        if side_T[t] >= 0:
            leaf = 2 * int(q[split_T2[t, 0]] > 0.0) + int(q[split_T2[t, 1]] > 0.0)
            total += value_T44[t, side_T[t], leaf]
    return total


@compiled
def main_effects(quality_B: Floats, level_B: Floats, main_B: Floats) -> None:
    """Write the sum of the main effects of item and user."""
    for i in range(len(main_B)):
        main_B[i] = MAIN_WEIGHTS[0] * quality_B[i] + MAIN_WEIGHTS[1] * level_B[i]


@compiled
def matches(
    seed: int, length: int, histories: Histories, decay_S: Floats, catalog: Catalog, match_B: Floats
) -> None:
    """Write Σ_k ρ^k (1[same category] + 0.5 [same brand]) over each user's last behaviors; k = 1 is the latest.

    The categories of the few current stints are compared first, because most rows match none of them.
    """
    user_B, slots_B, scenario_B, category_B, brand_B = histories
    category, category_guide, item_start, item_power = catalog
    is_match = np.empty((length // EPOCH_SLOTS + 2, 3), dtype=np.bool_)
    for i in range(len(user_B)):
        user, slots, target = user_B[i], slots_B[i], category_B[i]
        first = max(0, slots - length)
        match_B[i] = 0.0
        if slots == 0 or not _find_matches(
            seed, user, first, slots, target, category, category_guide, is_match
        ):
            continue
        weight, decay, total = 1.0, decay_S[scenario_B[i]], 0.0
        block = slot_words(seed, user, slots - 1)
        for slot in range(slots - 1, first - 1, -1):
            if slot % 4 == 3:
                block = slot_words(seed, user, slot)
            weight *= decay
            if is_match[slot // EPOCH_SLOTS - first // EPOCH_SLOTS, slot_interest(block, slot)]:
                item = slot_item(seed, user, slot, target, item_start, item_power)
                is_same_brand = brand_of(seed, item, target) == brand_B[i]
                total += weight * (1.0 + BRAND_MATCH) if is_same_brand else weight
        match_B[i] = total


@compiled
def _find_matches(
    seed: int,
    user: int,
    first: int,
    slots: int,
    target: int,
    category: Floats,
    category_guide: Integers,
    is_match: np.ndarray,
) -> bool:
    """Write whether the category of each epoch and interest equals the target category; return whether any does."""
    phases, begin, is_any = phases_of(seed, user), first // EPOCH_SLOTS, False
    for interest in range(3):
        last, is_same = -1, False
        for epoch in range(begin, (slots - 1) // EPOCH_SLOTS + 1):
            stint = stint_of(phases, interest, epoch)
            if stint != last:
                last = stint
                is_same = category_of(seed, user, interest, stint, category, category_guide) == target
            is_match[epoch - begin, interest] = is_same
            is_any = is_any or is_same
    return is_any


@compiled
def residuals(seed: int, user_B: Integers, item_B: Integers, residual_B: Floats) -> None:
    """Write the residual of each pair of user and item: a standard normal that no feature explains."""
    for i in range(len(user_B)):
        residual_B[i] = normals(seed, _RESIDUAL, user_B[i], item_B[i])[0]


@compiled
def logits(
    mu: float,
    domain_B: Integers,
    scenario_B: Integers,
    day_B: Integers,
    level_D: Floats,
    drift_SD: Floats,
    parts_PB: Floats,
    weight_P: Floats,
    residual_B: Floats,
    base_logit_B: Floats,
    logit_B: Floats,
) -> None:
    """Write the logit without and with the residual; the order of summation is fixed."""
    root = math.sqrt(V_RESIDUAL)
    for i in range(len(domain_B)):
        total = mu + math.sqrt(V_DOMAIN) * level_D[domain_B[i]] + drift_SD[scenario_B[i], day_B[i]]
        for part in range(len(weight_P)):
            total += weight_P[part] * parts_PB[part, i]
        base_logit_B[i] = total
        logit_B[i] = total + root * residual_B[i]


@compiled
def clicks(logit_B: Floats, probability_B: Floats) -> None:
    """Write the click probability, the sigmoid of the logit."""
    for i in range(len(logit_B)):
        probability_B[i] = 1.0 / (1.0 + math.exp(-logit_B[i]))


@compiled
def ceilings(base_logit_B: Floats, probability_B: Floats) -> None:
    """Write the click probability given all components but the residual, by 16-point Gauss-Hermite quadrature."""
    root = math.sqrt(V_RESIDUAL)
    for i in range(len(base_logit_B)):
        total = 0.0
        for k in range(len(_NODES)):
            total += _WEIGHTS[k] / (1.0 + math.exp(-base_logit_B[i] - root * _NODES[k]))
        probability_B[i] = total


@compiled
def outcomes(
    start: int, seed: int, draw: int, probability_B: Floats, label_B: np.ndarray, price_uniform_B: Floats
) -> None:
    """Write the click, and the uniform that determines the price."""
    for i in range(len(label_B)):
        u, price_uniform_B[i] = uniforms(seed, _LABEL, start + i, draw)
        label_B[i] = 1 if u < probability_B[i] else 0


@compiled
def bids(
    seed: int,
    quality_corr: float,
    shop_B: Integers,
    price_level_B: Integers,
    day_B: Integers,
    quality_B: Floats,
    bid_B: Floats,
) -> None:
    """Write the advertiser's bid of the day; `price_level_B` starts at 0."""
    noise_weight = math.sqrt(1.0 - quality_corr * quality_corr)
    for i in range(len(bid_B)):
        noise = normals(seed, _BID, shop_B[i], day_B[i])[0]
        score = quality_corr * quality_B[i] + noise_weight * noise
        bid_B[i] = math.exp(BID_STD * score + BID_PRICE * (price_level_B[i] + 1 - 5))
