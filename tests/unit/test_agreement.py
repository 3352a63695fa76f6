"""Whether a free-text response gives the expected answer."""

import pytest

from agent0.agreement import answers_agree, final_answer, is_right


@pytest.mark.parametrize(
    "response, expected",
    [
        ("The answer is 36.", "36"),
        ("15% of 240 = 240 * 15 / 100 = 3600 / 100 = 36. The answer is 36.", "36"),
        ("The answer is 36, which is more than 30.", "36"),
        ("The answer is 36. That is 30 and 6 more.", "36"),
        ("Answer:\n**36**", "36"),
        ("So \\boxed{36} it is, as 6 * 6 shows.", "36"),
        ("24 + 12 = 36 apples in 3 boxes", "36"),
        ("The answer is thirty-six.", "36"),
        ("It makes 1,200", "1200"),
        ("There are 12 days between June 9 and June 21.", "12"),
        ("It's 7.50 dollars", "$7.50"),
        ("You pay $36 for 3 shirts.", "$36"),
        ("The answer is 75 cents", "$0.75"),
        ("The answer is 3 km.", "3000 m"),
        ("The answer is 3000.", "3000 m"),
        ("48 m²", "48 square meters"),
        ("The answer is 48 sq m.", "48 square meters"),
        ("The answer is 60 km/h.", "60 kilometers per hour"),
        ("60 mph", "60 miles per hour"),
        ("The answer is 1 hour and 50 minutes.", "110 minutes"),
        ("The answer is 0.75", "3/4"),
        ("$\\frac{3}{4}$", "0.75"),
        ("The answer is 2 1/2.", "2.5"),
        ("The answer is 25%.", "25"),
        ("x = 5", "x = 5"),
        ("so x = 2 and y = 3", "x = 2, y = 3"),
        ("The answer is 3 and 2.", "2 and 3"),
        ("The answer is Thursday.", "Thursday"),
        ("Not Monday but thursday", "Thursday"),
        ("The answer is March 20th, 2026.", "March 20"),
        ("The 20th of March", "March 20, 2026"),
        ("2026-03-20", "March 20"),
        ("It ends at 2:35 p.m. sharp.", "14:35"),
        ("14:35", "2:35 PM"),
        ("It ends at 2:35.", "14:35"),
        ("The answer is Paris.", "Paris"),
        ("It is in the south of Spain, specifically in Andalusia, which some call Baetica or Vandalia.", "Spain"),
        ("The symbol for water is H2O. It has 2 hydrogen atoms and 1 oxygen atom.", "H2O"),
        ("The opposite of inside is outside. In calculus, that is |x| = x where x is positive.", "outside"),
        ("It is 36, not 40.", "36"),
        ("The answer is not 40 but 36.", "36"),
        ("It isn't 40, it is 36.", "36"),
        ("There are 5000 meters in 5 kilometers.", "5000 meters"),
        ("36 is 15% of 240.", "36"),
        ("Tuesday is 15 days after Monday.", "Tuesday"),
        ("Answer: 15% of 240 is 36.", "36"),
        ("36. I multiplied 3 by 12.", "36"),
        ("36, because the difference is 5.", "36"),
        ("x = 3. Check: 2 * 3 + 4 = 10.", "x = 3"),
        ("The answer is 40. Actually, it is 36.", "36"),
        ("The difference between 40 and 4 is 36.", "36"),
        ("It is negative 5.", "-5"),
        ("20 minus 5 is 15", "15"),
        ("20-5 is 15", "15"),
        ("60 miles an hour", "60 miles per hour"),
        ("two and a half hours", "150 minutes"),
        ("It takes 1h 30m.", "90 minutes"),
        ("7 dollars and 50 cents", "$7.50"),
        ("It ends at noon.", "12:00 PM"),
        ("2½", "2.5"),
        ("one half", "1/2"),
        ("x is 2 and y is 3", "x = 2, y = 3"),
        ("$12$ meters", "12 meters"),
        ("two thousand", "2000"),
        ("William Shakespeare wrote Romeo and Juliet in 1597.", "William Shakespeare"),
        ("The capital of Canada is Ottawa, not Toronto.", "Ottawa"),
        ("Yes, Tom is an animal.", "yes"),
        ("It is 36. It is not 40.", "36"),
        ("It is 0.75 or 3/4", "3/4"),
        ("It takes 36 minutes, if the train doesn't stop", "36 minutes"),
    ],
)
def test_answers_that_agree(response, expected):
    assert answers_agree(response, expected)


@pytest.mark.parametrize(
    "response, expected",
    [
        ("", "36"),
        ("I don't know.", "36"),
        ("The answer is 37.", "36"),
        ("The answer is -36.", "36"),
        ("The answer is 136.", "36"),
        ("The answer is 3.6.", "36"),
        ("The answer is 1,036.", "36"),
        ("The answer is not 36.", "36"),
        ("The answer is 36 or 40.", "36"),
        ("36 is wrong. The answer is 40.", "36"),
        ("The answer is 36% off", "$36"),
        ("The answer is 3000 km.", "3000 m"),
        ("The answer is 3000 kg.", "3000 m"),
        ("The answer is 48 meters.", "48 square meters"),
        ("The answer is 60 miles.", "60 miles per hour"),
        ("The answer is 2.", "2 and 3"),
        ("x = 3 and y = 2", "x = 2, y = 3"),
        ("The answer is Friday, a day after Thursday.", "Thursday"),
        ("The answer is March 21.", "March 20"),
        ("The answer is March 20, 2025.", "March 20, 2026"),
        ("2:35 AM", "14:35"),
        ("2:36", "14:35"),
        ("The answer is not Paris.", "Paris"),
        ("It is not 36.", "36"),
        ("It isn’t 36.", "36"),
        ("It is 40, not 36.", "36"),
        ("It could be 40 or 36.", "36"),
        ("Either 36 or 40.", "36"),
        ("Monday or Thursday", "Thursday"),
        ("It never is 2:35 PM", "14:35"),
        ("There are 500 meters in 5 kilometers.", "5000 meters"),
        ("25 kg is 2500 g.", "25000 g"),
        ("The answer isn't 36.", "36"),
        ("36 is not the answer.", "36"),
        ("36 is not correct.", "36"),
        ("The answer is 36. Actually, it is 40.", "36"),
        ("36... no, 40.", "36"),
        ("It is more than 36.", "36"),
        ("At least 36.", "36"),
        ("Between 36 and 40.", "36"),
        ("36-40", "36"),
        ("It is 36-40.", "40"),
        ("36 and a half", "36"),
        ("negative 5", "5"),
        ("two thousand", "2"),
        ("€36", "$36"),
        ("1\\frac{1}{6}", "11/6"),
        ("No, Tom is not an animal.", "yes"),
        ("It is a city, which is Paris or London", "Paris"),
        ("Paris or London, which are big", "Paris"),
        ("It is Paris, which is wrong", "Paris"),
        ("Paris or London", "Paris"),
        ("9" * 5000, "36"),
    ],
)
def test_answers_that_do_not_agree(response, expected):
    assert not answers_agree(response, expected)


def test_final_answer():
    assert final_answer("It was 12. The answer is 36 apples. Good.") == "36 apples"
    assert final_answer("ANSWER: 6 * 6 = 36") == "36"
    assert final_answer("there are 12, then 36") == "36"
    assert final_answer("no idea") == "no idea"


def test_one_of_several_right_answers_is_enough():
    assert is_right("Palermo lies in the Italian region of Sicily.", "Italy | Italian")
    assert is_right("It is in Italy.", "Italy | Italian")
    assert not is_right("It is in Spain.", "Italy | Italian")
    assert not is_right("It is in Italy or Spain.", "Italy | Italian")
