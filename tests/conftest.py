"""What every test shares."""

import hypothesis

# The same examples in every run, and no judgement by the clock: a test fails for a reason or not at all.
hypothesis.settings.register_profile("halfstride", derandomize=True, deadline=None)
hypothesis.settings.load_profile("halfstride")
