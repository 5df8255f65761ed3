import pathlib

import jinja2
import postprocess

TEMPLATE = pathlib.Path(postprocess.__file__).with_name("chat_template.jinja")


def render(messages, **values):
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text())
    return template.render(messages=messages, bos_token="<|begin|>", add_generation_prompt=True, **values)


def test_the_template_lies_beside_the_code_in_the_image():
    assert TEMPLATE.is_file()
    assert TEMPLATE.is_absolute()


def test_every_turn_keeps_its_role_and_the_assistant_speaks_next():
    text = render([{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hello "}])
    assert text == "<|begin|><|system|>Be brief.<|end|><|user|>Hello<|end|><|assistant|>"


def test_content_in_parts_is_joined():
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert "<|user|>onetwo<|end|>" in render([{"role": "user", "content": parts}])


def test_tools_are_told_before_the_conversation():
    text = render([{"role": "user", "content": "hi"}], tools=[{"type": "function", "function": {"name": "clock"}}])
    assert text.index("clock") < text.index("<|user|>")
