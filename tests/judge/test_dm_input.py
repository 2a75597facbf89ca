"""The DM's input is the same in training and serving; its ids grow by appending and have a bounded length."""

from hypothesis import given
from hypothesis import strategies as st

from drr.judge.dm_input import DmInput, question_text
from drr.learn.boundaries import stretches
from drr.reference.tokenizer import train_tokenizer
from tests.fakes import rollout_of

TOKENIZER = train_tokenizer(["so: 31*3=93.\n\nSo the answer is 93.\n\n"] * 4)
STEPS = st.lists(st.sampled_from(["so: 1+2=3.\n\n", "Wait.\n\n", "So the answer is 3.\n\n"]), min_size=1, max_size=12)


@given(steps=STEPS)
def test_longer_contexts_begin_with_shorter_ones(steps: list[str]) -> None:
    context = DmInput(TOKENIZER, "What is 1 + 2?", 10_000)
    before = context.ids
    for step in steps:
        after = context.append(step)
        assert after[: len(before)] == before
        assert len(after) > len(before)
        before = after
    assert TOKENIZER.decode(before).endswith("".join(steps))


@given(steps=STEPS, room=st.integers(16, 80))
def test_inputs_never_exceed_the_room(steps: list[str], room: int) -> None:
    context = DmInput(TOKENIZER, "What is 1 + 2? " * 10, room)
    for step in steps:
        assert 0 < len(context.append(step)) <= room


@given(steps=STEPS, room=st.sampled_from([60, 90, 10_000]), data=st.data())
def test_training_sees_the_ids_that_serving_pools(steps: list[str], room: int, data: st.DataObject) -> None:
    rollout = rollout_of(steps)
    merged = data.draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)))
    seen = {
        step: stretch.ids[: position + 1]
        for stretch in stretches(TOKENIZER, rollout, room, merged)
        for position, step in zip(stretch.positions, stretch.steps, strict=True)
    }
    served = DmInput(TOKENIZER, rollout.question, room)
    text = ""
    for index, step in enumerate(steps):
        text += step
        if index in seen:
            assert seen.pop(index) == served.append(text)
            text = ""
    assert not seen
    assert not text, "the last step always closes a boundary"


def test_questions_are_the_users_words_or_the_whole_conversation() -> None:
    assert question_text([{"role": "user", "content": "Hi"}]) == "Hi"
    assert question_text([{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image"}]}]) == "Hi"
    assert (
        question_text([{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]) == "system: S\nuser: Hi"
    )
    assert question_text([{"role": "user", "content": None}]) == ""


@given(text=st.text(alphabet="ab 1+=.\n", min_size=1, max_size=40), room=st.integers(16, 200))
def test_of_a_long_text_the_same_ids_are_kept_as_if_all_of_it_were_encoded(text: str, room: int) -> None:
    long = (text + " so it goes. ") * 400
    context = DmInput(TOKENIZER, long, room)
    prompt = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": long}], add_generation_prompt=True, tokenize=False
    )
    assert context.ids == TOKENIZER.encode(prompt, add_special_tokens=False)[-(room // 2) :]
    assert context.append(long)[-(room // 2) :] == TOKENIZER.encode(long, add_special_tokens=False)[-(room // 2) :]


def test_a_question_of_a_million_characters_is_hardly_read() -> None:
    class Counting:
        chat_template = TOKENIZER.chat_template
        apply_chat_template = staticmethod(TOKENIZER.apply_chat_template)
        characters = 0

        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            self.characters += len(text)
            ids: list[int] = TOKENIZER.encode(text, add_special_tokens=add_special_tokens)
            return ids

    counting = Counting()
    DmInput(counting, "What is 1 + 2? " * 70_000, 1024).append("so: 1+2=3. " * 90_000)
    assert counting.characters < 40_000
