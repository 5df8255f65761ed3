import postprocess


def test_markers_of_the_template_never_reach_the_user():
    assert postprocess.clean("<|assistant|>Hello<|end|>") == "Hello"


def test_an_invented_next_turn_is_cut_off():
    assert postprocess.clean("Yes.<|end|><|user|>And now something else") == "Yes."


def test_access_tokens_are_blotted_out_and_ordinary_words_stay():
    assert postprocess.answer("use sk-abcdefghijklmnop1234 here") == "use [redacted] here"
    assert postprocess.answer("a sketch of hf_short") == "a sketch of hf_short"


def test_at_most_one_blank_line_in_a_row():
    assert postprocess.clean("one\n\n\n\n\ntwo\n") == "one\n\ntwo"
