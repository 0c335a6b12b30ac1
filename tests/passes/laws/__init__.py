"""The table of the law, by subject. Knows nothing of how the rows are run."""

from dataclasses import replace

from tests.passes.laws import control, custom, dots, experts, numerics, remat, sharding, views

# Subject -> whether its rows also run one equation at a time, and every how many are mapped.
# Dots and views of one weight differ in their axes alone: there a sample does.
TABLES = {
    dots: (False, 4),
    views: (False, 4),
    control: (True, 1),
    remat: (False, 4),
    custom: (True, 1),
    sharding: (False, 1),
    experts: (False, 1),
    numerics: (False, 2),
}
CASES = {
    name: replace(case, eager=eager or number % 8 == 0, vmap=case.vmap and number % every == 0)
    for table, (eager, every) in TABLES.items()
    for number, (name, case) in enumerate(table.CASES.items())
}
assert len(CASES) == sum(len(table.CASES) for table in TABLES), "two rows have one name"
