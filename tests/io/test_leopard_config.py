"""Leopard-EM's configurations: complete, and every mistake named with its place."""

import pytest

from halfmap.errors import FormatError
from halfmap.io import leopard_config

REFINE = """
template_volume_path: t.mrc
particle_stack: {df_path: p.csv, extracted_box_size: [144, 144], original_template_size: [128, 128]}
"""


def read(tmp_path, text, program="refine_template"):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return leopard_config.read(path, program)


def test_what_a_configuration_leaves_out_has_the_defaults_of_leopard_em(tmp_path):
    config = read(tmp_path, REFINE)
    assert config["defocus_refinement_config"] == {
        "enabled": True, "defocus_min": -1000.0, "defocus_max": 1000.0, "defocus_step": 200.0,
        "skip_enforce_zero": False,
    }  # fmt: skip
    assert config["pixel_size_refinement_config"]["enabled"] is False
    assert config["preprocessing_filters"]["whitening_filter"]["max_freq"] == 0.5
    assert config["apply_global_filtering"] is True


def test_the_shipped_configuration_holds_the_values_of_the_guide(tmp_path):
    config = read(tmp_path, leopard_config.default_text("refine_template"))
    assert leopard_config.offsets(config["defocus_refinement_config"], "defocus") == tuple(range(-100, 101, 20))
    orientation = config["orientation_refinement_config"]
    assert (orientation["psi_step_coarse"], orientation["psi_step_fine"]) == (1.5, 0.15)
    assert (orientation["theta_step_coarse"], orientation["theta_step_fine"]) == (2.5, 0.25)
    size = config["pixel_size_refinement_config"]
    assert leopard_config.offsets(size, "pixel_size") == (0.0,)
    offsets = leopard_config.offsets({**size, "enabled": True}, "pixel_size")
    assert offsets == pytest.approx([i / 1000 for i in range(-5, 6)])


def test_zero_is_among_offsets_that_step_over_it_unless_that_is_not_wanted():
    block = {"enabled": True, "defocus_min": -30.0, "defocus_max": 30.0, "defocus_step": 20.0}
    assert leopard_config.offsets({**block, "skip_enforce_zero": False}, "defocus") == (-30, -10, 0, 10, 30)
    assert leopard_config.offsets({**block, "skip_enforce_zero": True}, "defocus") == (-30, -10, 10, 30)
    above = {**block, "defocus_min": 100.0, "defocus_max": 200.0, "skip_enforce_zero": False}
    assert leopard_config.offsets(above, "defocus")[0] == 0
    assert leopard_config.ends(above, "defocus") == (100, 200)
    assert leopard_config.ends({**above, "enabled": False}, "defocus") == (0, 0)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("defocus_refinement_config: {defocus_stp: 5}", "defocus_refinement_config.defocus_stp` is unknown: did you"
         " mean `defocus_step`"),
        ("templat: x", "`templat` is unknown: did you mean `template_volume_path`"),
        ("movie_config: {enabled: 3}", "`movie_config.enabled` must be true or false; got 3"),
        ("defocus_refinement_config: {defocus_min: 5, defocus_max: -5}", "defocus_max` must be ≥ defocus_min, 5"),
        ("orientation_refinement_config: {base_grid_method: healpx}", "did you mean healpix"),
        ("preprocessing_filters: {whitening_filter: {max_freq: fast}}", "max_freq` must be a number; got 'fast'"),
        ("preprocessing_filters: {phase_randomization_filter: {enabled: true}}", "phase_randomization_filter.cuton`"
         " must be given where the block is enabled; got null"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_and_the_nearest_that_is_right(tmp_path, extra, said):
    with pytest.raises(FormatError) as caught:
        read(tmp_path, REFINE + extra)
    assert said in str(caught.value)


def test_all_mistakes_are_named_at_once_and_text_that_is_no_yaml_with_its_line(tmp_path):
    with pytest.raises(FormatError, match=r"df_path` is missing.*extracted_box_size` must be a list of 2"):
        read(tmp_path, "template_volume_path: t\nparticle_stack: {extracted_box_size: 5}")
    with pytest.raises(FormatError, match="line 2"):
        read(tmp_path, "a: 1\n  b: [")


def test_computational_settings_take_keys_of_other_versions(tmp_path):
    assert read(tmp_path, REFINE + "computational_config: {later: 1}")["computational_config"]["later"] == 1


def test_configurations_of_the_other_programs_are_read(tmp_path):
    optimise = read(
        tmp_path, REFINE.replace("template_volume_path: t.mrc", "simulator: {pdb_filepath: a.pdb}"), "optimize_template"
    )
    assert optimise["simulator"]["simulator_config"]["dose_end"] == 30
    stack = REFINE.split("particle_stack: ")[1]
    text = f"template_volume_path: t\nparticle_stack_reference: {stack}particle_stack_constrained: {stack}"
    assert read(tmp_path, text, "constrained_search")["center_vector"] == (0, 0, 0)
    names = ("mip", "scaled_mip", "correlation_average", "correlation_variance")
    names += ("orientation_psi", "orientation_theta", "orientation_phi", "relative_defocus")
    match = {f"{name}_path": "x.mrc" for name in names}
    optics = "{label: a, pixel_size: 1.06, voltage: 300, defocus_u: 9000, defocus_v: 8e3, astigmatism_angle: 5}"
    config = read(
        tmp_path,
        f"micrograph_path: m\ntemplate_volume_path: t\noptics_group: {optics}\nmatch_template_result: {match}",
        "match_template",
    )
    assert config["optics_group"]["defocus_v"] == 8000
    assert config["orientation_search_config"]["symmetry"] == "C1"


def test_a_key_that_stands_twice_is_named_with_its_lines(tmp_path):
    text = REFINE + "defocus_refinement_config:\n  defocus_min: -100\n  defocus_step: 20\n  defocus_min: -50\n"
    with pytest.raises(FormatError, match=r"line 7: .*'key `defocus_min` twice, first in line 5"):
        read(tmp_path, text)
