"""Jobs as Python functions."""

import inspect

from halfmap.project.job import JobResult, as_function, function_name
from support.counting_job import JOB


def test_the_signature_holds_parameters_folder_and_run_options():
    signature = inspect.signature(as_function(JOB))
    names = list(signature.parameters)
    assert names[:2] == ["numbers", "extra"]
    assert names[names.index("out") + 1 :] == ["devices", "workers", "threads", "memory", "scratch", "cluster"]
    assert signature.parameters["box_pixel"].default == 256
    assert signature.parameters["numbers"].default is inspect.Parameter.empty
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in signature.parameters.values())
    assert signature.return_annotation is JobResult


def test_the_docstring_names_every_parameter_with_its_help():
    count = as_function(JOB)
    assert count.__doc__.startswith("Count to a number.\n\nParameters\n----------\n")
    assert "box_pixel : an integer ≥ 2 px and even\n    Side of the box." in count.__doc__
    assert count.__name__ == "count"


def test_a_function_s_name_has_the_words_of_the_command():
    assert function_name("pick log") == "pick_log"
    assert function_name("match-template") == "match_template"
