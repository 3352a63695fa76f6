"""The user who gave the right answer along with the feedback, as a member."""

from agent0.agreement import final_answer
from agent0.records import Rewrite


class UserMember:
    """Proposes the user's correction. It is a claim like any other: it needs a proof or the votes of others."""

    name = "user"

    def __init__(self, correction: str):
        self.correction = correction.strip()

    def propose(self, question: str, failed_response: str) -> Rewrite | None:
        if not self.correction:
            return None
        reasoning = "The user who asked gave this correction."
        return Rewrite(
            member=self.name, reasoning=reasoning, output=self.correction, result=final_answer(self.correction)
        )
