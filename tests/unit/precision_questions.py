"""Everyday questions with known answers, for measuring how often a member that says "proven" is right.

Written before, and without, the rules that answer them. Answers are worked out here in plain Python. An answer of None
means that the question cannot be answered from what it says, so that any answer is a wrong one.
"""

import contextlib
import io
import random
import statistics
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from fractions import Fraction
from math import comb, factorial, gcd, isqrt, lcm, prod

DRAWS = 3  # numbers drawn for each template


def dollars(value: float | Fraction) -> str:
    return f"${float(value):.2f}"


def day(when: date) -> str:
    return f"{when:%B} {when.day}, {when.year}"


def clock(when: datetime) -> str:
    return f"{when:%I:%M %p}".lstrip("0")


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2024, 1, 1, hour, minute)


def is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, isqrt(n) + 1))


# (kind, question, answer)
FIXED: list[tuple[str, str, str | None]] = [
    # arithmetic, said in many ways
    ("arithmetic", "Could you work out 487 plus 256 for me?", str(487 + 256)),
    ("arithmetic", "Take 19 away from 104. What remains?", str(104 - 19)),
    ("arithmetic", "If I multiply 23 by 17, what do I get?", str(23 * 17)),
    ("arithmetic", "What's the product of 14, 6 and 5?", str(14 * 6 * 5)),
    ("arithmetic", "How much is 7 squared minus 3 squared?", str(7**2 - 3**2)),
    ("arithmetic", "Compute 8 + 2 * 15 - 6.", str(8 + 2 * 15 - 6)),
    ("arithmetic", "Evaluate (9 - 4) * (6 + 7).", str((9 - 4) * (6 + 7))),
    ("arithmetic", "What is 2^10?", str(2**10)),
    ("arithmetic", "What is -3^2?", str(-(3**2))),
    ("arithmetic", "What is 100 - 30 - 20?", str(100 - 30 - 20)),
    ("arithmetic", "What is 48 / 4 / 3?", str(48 // 4 // 3)),
    ("arithmetic", "What is 2 ** 3 ** 2?", str(2**3**2)),
    ("arithmetic", "What is 1/2 + 1/3?", str(Fraction(1, 2) + Fraction(1, 3))),
    ("arithmetic", "What is 3/4 of 2/3?", str(Fraction(3, 4) * Fraction(2, 3))),
    ("arithmetic", "Give me the remainder when 137 is divided by 11.", str(137 % 11)),
    ("arithmetic", "What is 137 mod 11?", str(137 % 11)),
    ("arithmetic", "What do you get when you divide 144 by 12 and then add 5?", str(144 // 12 + 5)),
    ("arithmetic", "What is half of 250?", "125"),
    ("arithmetic", "What's double 87?", "174"),
    ("arithmetic", "What is three quarters of 84?", "63"),
    ("arithmetic", "What is the difference between 91 and 38?", "53"),
    ("arithmetic", "What is the sum of the first 10 positive integers?", "55"),
    ("arithmetic", "What is the sum of the first 5 odd numbers?", "25"),
    ("arithmetic", "Subtract 45 from 200.", "155"),
    ("arithmetic", "Subtract 45 from 200 and double the result.", "310"),
    ("arithmetic", "Divide 81 by 9, then multiply by 4.", "36"),
    ("arithmetic", "What is 0.1 + 0.2?", "0.3"),
    ("arithmetic", "What is 1,250 + 3,750?", "5000"),
    ("arithmetic", "What is 5 times 12 less than 100?", None),
    ("arithmetic", "What is fifty-six plus seventeen?", "73"),
    ("arithmetic", "What is 12 × 12 − 44?", "100"),
    ("arithmetic", "What is 7 more than three times 9?", "34"),
    ("arithmetic", "What number is 8 less than 5 squared?", "17"),
    ("arithmetic", "What is 15 percent of 80 plus 10?", None),
    ("arithmetic", "What is the square root of 196?", "14"),
    ("arithmetic", "What is the cube of 6?", "216"),
    ("arithmetic", "What is the cube root of 125?", "5"),
    ("arithmetic", "What is 6 factorial?", str(factorial(6))),
    ("arithmetic", "What is 10! / 8!?", "90"),
    ("arithmetic", "Round 3.14159 to two decimal places.", "3.14"),
    ("arithmetic", "Round 2,748 to the nearest hundred.", "2700"),
    ("arithmetic", "What is the absolute value of -17?", "17"),
    ("arithmetic", "How many times does 7 go into 91?", "13"),
    ("arithmetic", "What is 10 divided by one half?", "20"),
    # percent
    ("percent", "What is 35% of 60?", "21"),
    ("percent", "18 is what percent of 72?", "25%"),
    ("percent", "What percentage of 250 is 40?", "16%"),
    ("percent", "30 is 20% of what number?", "150"),
    ("percent", "Increase 240 by 15%.", "276"),
    ("percent", "Decrease 90 by a third.", "60"),
    ("percent", "A number rises from 40 to 50. What is the percent increase?", "25%"),
    ("percent", "A price falls from $80 to $60. By what percentage did it fall?", "25%"),
    ("percent", "A price goes up by 10% and then down by 10%. What is the overall percent change?", "-1%"),
    ("percent", "Out of 40 students, 26 passed. What percentage failed?", "35%"),
    ("percent", "In a class of 32, 25% wear glasses. How many do not wear glasses?", "24"),
    ("percent", "A battery at 80% loses 15 percentage points. What is its charge now?", "65%"),
    ("percent", "A shirt costs $40 after a 20% discount. What was the original price?", "$50"),
    ("percent", "If 60% of a number is 90, what is the number?", "150"),
    ("percent", "What is 5% of 10% of 2000?", "10"),
    ("percent", "Tom scored 45 out of 60 on a test. What percentage is that?", "75%"),
    ("percent", "What is 200% of 15?", "30"),
    ("percent", "What is 0.5% of 400?", "2"),
    ("percent", "Sales were 500 in May and 650 in June. By what percent did they grow?", "30%"),
    ("percent", "A town of 8,000 people shrinks by 5%. How many people live there now?", "7600"),
    # money
    ("price", "Apples are $3 a kilo. What do 4 kilos cost?", "$12"),
    ("price", "Pens cost 75 cents each. How much are 8 pens?", "$6"),
    ("price", "A dozen eggs costs $4.20. How much is one egg?", "$0.35"),
    ("price", "If 5 notebooks cost $12.50, how much do 8 notebooks cost?", "$20"),
    ("price", "I pay with a $20 bill for something that costs $13.65. What is my change?", "$6.35"),
    ("price", "Lunch costs $24 and I leave a 15% tip. What do I pay in total?", "$27.60"),
    ("price", "A $60 jacket is 25% off. What's the sale price?", "$45"),
    ("price", "A $60 jacket is 25% off. How much do you save?", "$15"),
    ("price", "A jacket costs $60. With 8% sales tax, what is the total?", "$64.80"),
    ("price", "Buy 3 shirts at $15 each and 2 hats at $10 each. What's the total?", "$65"),
    ("price", "Three friends split a $72 bill evenly. How much does each pay?", "$24"),
    ("price", "Four friends split a $72 bill, but one pays nothing. How much does each of the others pay?", "$24"),
    ("price", "A pizza costs $18 and is cut into 8 slices. How much is 2 slices worth?", "$4.50"),
    ("price", "Maria earns $15 per hour and works 8 hours a day, 5 days a week. What does she earn a week?", "$600"),
    ("price", "Rent is $950 a month. How much is that per year?", "$11400"),
    ("price", "Tickets are $12 for adults and $7 for children. What do 2 adults and 3 children pay?", "$45"),
    ("price", "Sam has $50. He buys 3 books at $9 each. How much money is left?", "$23"),
    ("price", "Sam buys 3 books at $9 each and gets $2 off the total. What does he pay?", "$25"),
    ("price", "Sam buys 3 books at $9 each. Ann buys 2. How much does Ann pay?", "$18"),
    ("price", "Oranges are 3 for $2. How much are 12 oranges?", "$8"),
    ("price", "Buy two, get one free: muffins are $3 each. What do 3 muffins cost?", "$6"),
    ("price", "A phone plan is $30 a month plus a $45 fee once. What is the cost of the first year?", "$405"),
    ("price", "Which is cheaper per gram: 200 g for $3 or 500 g for $7?", "500 g for $7"),
    ("price", "You invest $1000 at 5% simple interest for 3 years. How much interest do you earn?", "$150"),
    ("price", "You invest $1000 at 10% compounded yearly. How much do you have after 2 years?", "$1210"),
    ("price", "Gas is $3.50 a gallon. How many gallons do I get for $28?", "8 gallons"),
    ("price", "Jane spent $18 on 4 sandwiches and a $2 drink. How much is one sandwich?", None),
    ("price", "Coffee costs $4 and a bagel costs $3. Lee buys some of each. How much does Lee pay?", None),
    ("price", "Grace buys 5 stamps. How much does she pay?", None),
    ("price", "If 2 apples cost $1 and 3 pears cost $2, how much do 4 apples and 6 pears cost?", "$6"),
    ("price", "How many quarters make $7.25?", "29"),
    ("price", "How many cents are in $3.40?", "340"),
    # units
    ("unit", "Convert 3.5 kilometers to meters.", "3500 m"),
    ("unit", "How many centimeters are there in 2.4 meters?", "240 cm"),
    ("unit", "How many grams is 2 and a half kilos?", "2500 g"),
    ("unit", "How many ounces are in 3 pounds?", "48 ounces"),
    ("unit", "How many inches are in 5 feet 7 inches?", "67 inches"),
    ("unit", "How many yards are in 27 feet?", "9 yards"),
    ("unit", "Turn 90 minutes into hours.", "1.5 hours"),
    ("unit", "How many seconds are in 2 hours?", "7200 seconds"),
    ("unit", "How many days are in 6 weeks?", "42 days"),
    ("unit", "How many hours are there in 3 days and 4 hours?", "76 hours"),
    ("unit", "Express 750 milliliters in liters.", "0.75 liters"),
    ("unit", "How many cups are in 2 quarts?", "8 cups"),
    ("unit", "What is 68 degrees Fahrenheit in Celsius?", "20"),
    ("unit", "What is 100°C in Fahrenheit?", "212"),
    ("unit", "A rope is 2 m long. I cut off 35 cm. How long is what is left, in cm?", "165 cm"),
    ("unit", "How many 250 ml glasses can be filled from a 2 liter bottle?", "8"),
    ("unit", "How many square centimeters are in one square meter?", "10000"),
    ("unit", "How many minutes are in a day?", "1440"),
    ("unit", "How many seconds in 3.5 minutes?", "210 seconds"),
    ("unit", "How tall is a 6 foot man in inches?", "72 inches"),
    ("unit", "How many months are in 3 years?", "36"),
    ("unit", "Is 3 km longer than 2500 m?", "Yes"),
    ("unit", "How many megabytes are in a gigabyte?", None),
    ("unit", "How many meters are in 5 kilograms?", None),
    # speed, rates
    ("speed", "A train goes 180 km in 2 hours. What is its average speed?", "90 km/h"),
    ("speed", "Driving at 60 mph, how far do you get in 2.5 hours?", "150 miles"),
    ("speed", "A cyclist rides 45 km at 15 km/h. How long does the ride take?", "3 hours"),
    ("speed", "A car goes 30 miles in 40 minutes. What's its speed in mph?", "45 mph"),
    ("speed", "A plane flies 1,200 miles at 400 mph. How long is the flight?", "3 hours"),
    ("speed", "I walk 4 km to town at 4 km/h and back at 2 km/h. How long do I walk in total?", "3 hours"),
    ("speed", "I drive 60 miles at 30 mph and 60 miles back at 60 mph. What is my average speed?", "40 mph"),
    ("speed", "A car drives 2 hours at 50 mph and then 1 hour at 65 mph. How far does it go?", "165 miles"),
    ("speed", "Two trains 300 km apart drive towards each other at 70 and 80 km/h. When do they meet?", "2 hours"),
    ("speed", "A tap fills 12 liters a minute. How long does it take to fill a 180 liter tank?", "15 minutes"),
    ("speed", "A printer prints 24 pages in 2 minutes. How many pages does it print in 5 minutes?", "60"),
    ("speed", "4 workers paint a fence in 6 hours. How long would 3 workers take at the same rate?", "8 hours"),
    ("speed", "A car uses 6 liters per 100 km. How much fuel does it need for 350 km?", "21 liters"),
    ("speed", "A machine makes 45 parts an hour. How many does it make in an 8-hour shift?", "360"),
    ("speed", "Lightning strikes and the thunder comes 6 seconds later. How far away was it?", None),
    ("speed", "A car travels for 3 hours. How far does it go?", None),
    ("speed", "It takes 20 minutes to boil 5 eggs together. How long do 10 eggs take together in the same pot?", None),
    ("speed", "What is 20 meters per second in km/h?", "72 km/h"),
    # dates
    ("date", "What date is 10 days after March 25, 2023?", day(date(2023, 3, 25) + timedelta(10))),
    ("date", "What's the date two weeks before July 4, 2022?", day(date(2022, 7, 4) - timedelta(14))),
    ("date", "What day comes after February 28, 2024?", "February 29"),
    ("date", "What date follows February 28, 2023?", "March 1"),
    ("date", "How many days are there from April 3 to April 20?", "17"),
    ("date", "How many days are in February 2000?", "29"),
    ("date", "How many days did the year 1900 have?", "365"),
    ("date", "Is 2100 a leap year?", "No"),
    ("date", "Today is Wednesday. What day of the week will it be in 10 days?", "Saturday"),
    ("date", "If yesterday was Friday, what day is tomorrow?", "Sunday"),
    ("date", "If tomorrow is Monday, what day was yesterday?", "Saturday"),
    ("date", "What day of the week was July 20, 1969?", f"{date(1969, 7, 20):%A}"),
    ("date", "What weekday is 100 days after a Tuesday?", "Thursday"),
    ("date", "If March 1 is a Monday, what day of the week is March 31?", "Wednesday"),
    ("date", "A three-day trip starts on June 29. On which date does it end?", None),
    ("date", "How many days are there in March and April together?", "61"),
    ("date", "What is the last day of April?", "April 30"),
    ("date", "What month comes three months after November?", "February"),
    ("date", "Ann was born in 1988. How old did she turn in 2020?", "32"),
    ("date", "What date is it today?", None),
    ("date", "What is the date one month after January 15, 2023?", "February 15, 2023"),
    ("date", "How many weeks are there in 91 days?", "13"),
    ("date", "What day of the week is it 3 days before Monday?", "Friday"),
    ("date", "How many Mondays are there in February 2021?", "4"),
    # times
    ("time", "A film starts at 7:45 pm and lasts 2 hours 10 minutes. When does it end?", clock(at(21, 55))),
    ("time", "What time is it 50 minutes after 11:30 am?", clock(at(12, 20))),
    ("time", "How long is it from 9:15 am to 1:05 pm?", "230 minutes"),
    ("time", "A shift runs from 10 pm to 6 am. How many hours is that?", "8"),
    ("time", "What time was it 45 minutes before 1:20 pm?", clock(at(12, 35))),
    ("time", "The bus leaves at 8:50 and arrives at 9:25. How many minutes does the trip take?", "35"),
    ("time", "It is 4:40 pm. The meeting is in 35 minutes. When is the meeting?", clock(at(17, 15))),
    ("time", "A cake goes in the oven at 2:35 pm and needs 50 minutes. When is it done?", clock(at(15, 25))),
    ("time", "Write 15:30 as a 12-hour time.", "3:30 PM"),
    ("time", "If a clock runs 5 minutes fast and shows 3:00 pm, what is the right time?", "2:55 PM"),
    ("time", "A train due at 6:10 pm is 25 minutes late. When does it arrive?", "6:35 PM"),
    ("time", "It is noon in London and New York is 5 hours behind. What time is it in New York?", "7:00 AM"),
    ("time", "What time is 13 hours after 11 pm?", "12:00 PM"),
    ("time", "A 90-minute class that began at 10:45 am has a 10 minute break. When does it end?", None),
    # sequences
    ("sequence", "What comes next: 3, 6, 9, 12?", "15"),
    ("sequence", "What is the next number in 2, 6, 18, 54?", "162"),
    ("sequence", "Continue the sequence 1, 4, 9, 16 with one number.", "25"),
    ("sequence", "Which number comes next? 1, 1, 2, 3, 5, 8", "13"),
    ("sequence", "What is the next term: 20, 17, 14, 11?", "8"),
    ("sequence", "Find the missing number: 5, 10, __, 20, 25.", "15"),
    ("sequence", "What is the 10th term of 4, 7, 10, 13, ...?", "31"),
    ("sequence", "What is the next prime after 13?", "17"),
    ("sequence", "What comes next: 1, 2, 4?", None),
    ("sequence", "What comes next: 7, 3?", None),
    ("sequence", "What comes next: 2, 3, 5, 7, 11?", "13"),
    ("sequence", "What comes next: 1, 3, 6, 10, 15?", "21"),
    ("sequence", "What letter comes next: A, C, E, G?", "I"),
    ("sequence", "What comes next: 100, 50, 25?", "12.5"),
    # numbers
    ("number", "What is the greatest common divisor of 84 and 126?", str(gcd(84, 126))),
    ("number", "What's the least common multiple of 12 and 18?", str(lcm(12, 18))),
    ("number", "Is 91 a prime number?", "No"),
    ("number", "Is 97 prime?", "Yes"),
    ("number", "What is the mean of 4, 8, 15 and 16?", "10.75"),
    ("number", "What is the median of 3, 9, 1, 7 and 5?", "5"),
    ("number", "What is the median of 8, 2, 4 and 10?", "6"),
    ("number", "What is the mode of 2, 3, 3, 5 and 7?", "3"),
    ("number", "What is the range of 14, 3, 22 and 9?", "19"),
    ("number", "My test scores are 80, 90 and 85. What's my average?", "85"),
    ("number", "The average of 3 numbers is 10. Two of them are 7 and 8. What is the third?", "15"),
    ("number", "How many prime numbers are there below 20?", str(sum(map(is_prime, range(20))))),
    ("number", "What is the largest of 0.5, 0.45 and 0.405?", "0.5"),
    ("number", "Which is bigger, 3/4 or 2/3?", "3/4"),
    ("number", "What is 0.375 as a fraction?", "3/8"),
    ("number", "Write 7/8 as a decimal.", "0.875"),
    ("number", "Simplify 24/36.", "2/3"),
    ("number", "What is the sum of the digits of 4,582?", "19"),
    ("number", "What is 1011 in binary as a decimal number?", "11"),
    ("number", "How many even numbers are there between 1 and 21?", "10"),
    ("number", "How many ways can 5 people stand in a line?", "120"),
    ("number", "How many ways can you choose 3 books from 7?", str(comb(7, 3))),
    ("number", "What is the probability of rolling an even number on a fair die?", "1/2"),
    ("number", "What are the prime factors of 60?", "2, 3 and 5"),
    ("number", "What is the smallest prime factor of 91?", "7"),
    ("number", "How many digits does 2^10 have?", "4"),
    # equations
    ("equation", "Solve 3x + 7 = 22.", "x = 5"),
    ("equation", "What is x if 2x - 9 = 15?", "x = 12"),
    ("equation", "If 5(x - 2) = 30, what's x?", "x = 8"),
    ("equation", "Solve for y: y/4 + 3 = 8.", "y = 20"),
    ("equation", "Find both solutions of x^2 - 5x + 6 = 0.", "2 and 3"),
    ("equation", "x + y = 10 and x - y = 4. What is x?", "7"),
    ("equation", "If x + y = 10 and x - y = 4, what are x and y?", "x = 7, y = 3"),
    ("equation", "If 3 times a number minus 4 is 11, what is the number?", "5"),
    ("equation", "I think of a number, double it and add 6. I get 20. What was my number?", "7"),
    ("equation", "The sum of two consecutive numbers is 31. What is the smaller one?", "15"),
    ("equation", "If a = 3 and b = 4, what is a^2 + b^2?", "25"),
    ("equation", "If f(x) = 2x + 1, what is f(4)?", "9"),
    ("equation", "Expand (x + 2)(x + 3).", "x^2 + 5x + 6"),
    ("equation", "What is the derivative of x^3?", "3x^2"),
    ("equation", "What is x if x = x + 1?", None),
    ("equation", "Solve x + y = 5.", None),
    # geometry
    ("geometry", "What is the area of a rectangle 7 cm by 4 cm?", "28 square centimeters"),
    ("geometry", "A square has sides of 9 m. What is its perimeter?", "36 m"),
    ("geometry", "What is the perimeter of a rectangle that is 12 m long and 5 m wide?", "34 m"),
    ("geometry", "A rectangle has an area of 48 square feet and a width of 6 feet. How long is it?", "8 feet"),
    ("geometry", "A triangle has a base of 10 cm and a height of 6 cm. What is its area?", "30 square centimeters"),
    ("geometry", "The legs of a right triangle are 6 and 8. How long is the hypotenuse?", "10"),
    ("geometry", "Two angles of a triangle are 50 and 60 degrees. What is the third?", "70"),
    ("geometry", "What is the volume of a cube with edges of 3 cm?", "27"),
    ("geometry", "How many sides does a hexagon have?", "6"),
    ("geometry", "What is the area of a rectangle 2 m by 50 cm in square meters?", "1 square meter"),
    # word problems
    ("story", "Tom has 12 marbles and gives 5 to Ann. How many does Tom have now?", "7"),
    ("story", "Tom has 12 marbles and gives 5 to Ann, who had 3. How many does Ann have now?", "8"),
    ("story", "There are 24 cookies for 6 children. How many does each child get?", "4"),
    ("story", "A box holds 6 eggs. How many boxes are needed for 40 eggs?", "7"),
    ("story", "A box holds 6 eggs. How many full boxes can be made from 40 eggs?", "6"),
    ("story", "Ben is 3 years older than Cara, who is 11. How old is Ben?", "14"),
    ("story", "Ben is 14. He is twice as old as Cara. How old will Cara be in 5 years?", "12"),
    ("story", "A farmer has 17 sheep. All but 9 run away. How many are left?", "9"),
    ("story", "A bus has 30 passengers. 12 get off and 7 get on. How many are on the bus?", "25"),
    ("story", "Each of 4 shelves holds 15 books. 8 books are lent out. How many remain?", "52"),
    ("story", "Lily reads 20 pages a day. How many days does a 180 page book take?", "9"),
    ("story", "There are 5 cars with 4 wheels each and 3 bikes with 2 wheels each. How many wheels are there?", "26"),
    ("story", "A recipe for 4 people needs 300 g of rice. How much rice do 6 people need?", "450 g"),
    ("story", "I have 3 red balls and twice as many blue ones. How many balls do I have?", "9"),
    ("story", "Paul has 5 apples. His bag weighs 2 kg. How many apples does he have?", "5"),
    ("story", "Anna has 8 pencils, 3 of them broken. She buys 4 more. How many unbroken pencils does she have?", "9"),
    ("story", "A ladder has 12 rungs 30 cm apart. How far is the top rung from the bottom one?", "330 cm"),
    ("story", "It takes 10 minutes to saw a log into 2 pieces. How long to saw it into 3 pieces?", "20 minutes"),
    ("story", "A snail climbs 3 m by day and slips 2 m by night in a 10 m well. On which day is it out?", "8"),
    ("story", "Two thirds of 27 pupils came by bus. How many did not?", "9"),
    ("story", "Mike has 4 dozen eggs and uses 15. How many are left?", "33"),
    ("story", "Some birds sat on a wire. 4 flew away and 9 stayed. How many were there at first?", "13"),
    ("story", "If 3 cats catch 3 mice in 3 minutes, how many cats catch 100 mice in 100 minutes?", "3"),
    ("story", "Jo has some coins. She finds 3 more. How many does she have?", None),
    ("story", "A ball and a bat cost $11. The bat costs $10 more than the ball. How much is the ball?", "$0.50"),
    # logic: syllogisms
    ("logic", "All roses are flowers. Some flowers fade quickly. Do all roses fade quickly?", "Cannot be determined"),
    ("logic", "All whales are mammals. All mammals breathe air. Do whales breathe air?", "Yes"),
    ("logic", "All dogs are animals. Rex is a dog. Is Rex an animal?", "Yes"),
    ("logic", "All squares are rectangles. All rectangles are polygons. Are all squares polygons?", "Yes"),
    ("logic", "No reptiles are mammals. All snakes are reptiles. Are any snakes mammals?", "No"),
    ("logic", "No fish are birds. Nemo is a fish. Is Nemo a bird?", "No"),
    ("logic", "All cats are animals. Tom is an animal. Is Tom a cat?", "Cannot be determined"),
    ("logic", "Some teachers are singers. All singers are artists. Are some teachers artists?", "Yes"),
    ("logic", "Every poet is a dreamer. Mia is not a dreamer. Is Mia a poet?", "No"),
    ("logic", "All bloops are razzies and all razzies are lazzies. Are all bloops lazzies?", "Yes"),
    ("logic", "No doctors are robots. Some robots are blue things. Are some blue things not doctors?", "Yes"),
    ("logic", "Every engineer is a thinker. Every thinker is a reader. Lena is an engineer. Is Lena a reader?", "Yes"),
    ("logic", "All apples are fruits. All fruits are healthy. Is an apple healthy?", "Yes"),
    ("logic", "Some pets are cats. Some cats are black. Are some pets black?", "Cannot be determined"),
    ("logic", "No heroes are cowards. Some soldiers are cowards. Are all soldiers heroes?", "No"),
    ("logic", "All birds can fly. Penguins are birds. Can penguins fly?", "Yes"),
    # logic: propositions
    ("logic", "If it rains, the street gets wet. It rains. Is the street wet?", "Yes"),
    ("logic", "If it rains, then the match is cancelled. The match is not cancelled. Does it rain?", "No"),
    ("logic", "If the alarm rings, the dog barks. The dog barks. Does the alarm ring?", "Cannot be determined"),
    ("logic", "If A then B. If B then C. A is true. Is C true?", "Yes"),
    ("logic", "If A then B. B is false. Is A true?", "No"),
    ("logic", "If P then Q. Q is true. Is P true?", "Cannot be determined"),
    ("logic", "Either A or B is true, but not both. A is false. Is B true?", "Yes"),
    ("logic", "A or B is true. A is true. Is B true?", "Cannot be determined"),
    ("logic", "If P then Q. If Q then R. R is false. Is P true?", "No"),
    ("logic", "P and Q are both true. Is P true?", "Yes"),
    ("logic", "If the lamp is on, then the room is bright. The lamp is on. Is the room bright?", "Yes"),
    ("logic", "If the shop is open, the light is on. The light is not on. Is the shop open?", "No"),
    # logic: orders
    ("logic", "Ann is taller than Bob. Bob is taller than Cid. Who is the tallest?", "Ann"),
    ("logic", "Ann is taller than Bob, Bob is taller than Cid. Who is the shortest?", "Cid"),
    ("logic", "Mia is older than Leo. Leo is older than Kim. Who is the youngest?", "Kim"),
    ("logic", "Mia is older than Leo. Mia is older than Kim. Who is the youngest?", "Cannot be determined"),
    ("logic", "Dan runs faster than Eli. Finn runs slower than Eli. Who is the fastest?", "Dan"),
    ("logic", "Jack is shorter than Paul. Paul is shorter than Rob. Is Rob taller than Jack?", "Yes"),
    ("logic", "The red box is heavier than the blue box. The blue box is heavier than the green box. "
     "Which box is the lightest?", "green box"),
    ("logic", "Tim finished before Ray. Ray finished before Lou. Who finished last?", "Lou"),
    ("logic", "Tim finished before Ray. Tim finished before Lou. Who finished last?", "Cannot be determined"),
    ("logic", "Amy is older than Ben. Cal is younger than Ben. Dee is older than Amy. Who is second oldest?", "Amy"),
    ("logic", "Rob is as tall as Sam. Sam is taller than Ted. Who is the shortest?", "Ted"),
    ("logic", "Pam is taller than Meg. Who is taller, Meg or Pam?", "Pam"),
    ("logic", "In a race, Olga came in right after Nina, and Nina came in right after Petra. Who won?", None),
    ("logic", "Kate is richer than Joe, and Joe is richer than Max. Who is the poorest?", "Max"),
    # logic: small puzzles
    ("logic", "Ann, Bob and Cid each have a different pet: a cat, a dog and a fish. Ann does not have the cat. "
     "Bob has the dog. Who has the cat?", "Cid"),
    ("logic", "Ann, Bob and Cid each have a different pet: a cat, a dog and a fish. Ann has neither the cat nor the "
     "dog. Cid does not have the dog. What pet does Bob have?", "dog"),
    ("logic", "Three friends, Eve, Max and Sue, each like one colour: red, green or blue, and no two like the same. "
     "Eve likes red. Max does not like blue. Which colour does Sue like?", "blue"),
    ("logic", "A says that B lies. B says that A lies. Who lies?", None),
    ("logic", "I have two coins that make 30 cents, and one is not a nickel. What are they?", None),
    ("logic", "Mary's father has five daughters: Nana, Nene, Nini, Nono. What is the fifth one called?", "Mary"),
]  # fmt: skip


def drawn(r: random.Random) -> Iterator[tuple[str, str, str | None]]:
    """One question of each template, its numbers drawn afresh."""
    a, b, c = r.randint(12, 98), r.randint(3, 9), r.randint(2, 12)
    yield "arithmetic", f"What's {a} times {b}?", str(a * b)
    yield "arithmetic", f"Please calculate {a * 7} minus {a}.", str(a * 6)
    yield "arithmetic", f"What is {a} + {b} * {c}?", str(a + b * c)
    yield "arithmetic", f"What is ({a} + {b}) * {c}?", str((a + b) * c)
    yield "arithmetic", f"How much is {a * b} divided by {b}?", str(a)
    yield "arithmetic", f"Add {a}, {b} and {c}, then multiply by 2.", str((a + b + c) * 2)
    yield "arithmetic", f"What is {a} - {a + b}?", str(-b)
    yield "arithmetic", f"What is {b}/{c} + {c}/{b}?", str(Fraction(b, c) + Fraction(c, b))
    p = r.choice([5, 10, 20, 25, 40, 60, 75])
    whole = 20 * r.randint(2, 30)
    yield "percent", f"Find {p}% of {whole}.", str(whole * p // 100)
    yield "percent", f"{whole * p // 100} out of {whole} is how many percent?", f"{p}%"
    yield "percent", f"{whole} people came and {p}% of them left early. How many stayed?", str(whole * (100 - p) // 100)
    yield "percent", f"What is {whole} increased by {p} percent?", str(whole * (100 + p) // 100)
    yield "percent", f"What is {whole} reduced by {p} percent?", str(whole * (100 - p) // 100)
    name, other = r.sample(["Olivia", "Noah", "Ravi", "Chen", "Fatima", "Lucas"], 2)
    thing = r.choice(["mug", "lamp", "scarf", "ticket", "poster"])
    price, n, m = r.randint(3, 19), r.randint(2, 9), r.randint(2, 6)
    yield "price", f"One {thing} costs ${price}. What is the cost of {n} {thing}s?", dollars(price * n)
    yield "price", f"{name} bought {n} {thing}s for ${price * n}. What did each {thing} cost?", dollars(price)
    yield (
        "price",
        (f"{name} buys {n} {thing}s at ${price} each and pays with a $200 bill. How much change does {name} get?"),
        dollars(200 - n * price),
    )
    yield (
        "price",
        f"A {thing} that cost ${price * 10} is reduced by {p}%. What is the new price?",
        dollars(Fraction(price * 10 * (100 - p), 100)),
    )
    yield "price", f"{name} has ${a} and {other} has ${b} more. How much do they have together?", dollars(2 * a + b)
    yield "price", f"{name} saves ${c} a week. How much is saved after {n} weeks?", dollars(c * n)
    yield (
        "price",
        (
            f"{name} buys {n} {thing}s at ${price} each, and {other} buys {m} at the same price. "
            "How much do they spend together?"
        ),
        dollars((n + m) * price),
    )
    yield "unit", f"How many meters is {a} kilometers?", f"{a * 1000} m"
    yield "unit", f"{b} pounds is how many ounces?", f"{b * 16} ounces"
    yield "unit", f"Convert {a * 60} seconds to minutes.", f"{a} minutes"
    yield "unit", f"How many millimeters are in {b} m {c} cm?", f"{b * 1000 + c * 10} mm"
    speed, hours = 5 * r.randint(6, 20), r.randint(2, 6)
    yield "speed", f"A van covers {speed * hours} km in {hours} hours. How fast is it going?", f"{speed} km/h"
    yield "speed", f"How far does a bus go in {hours} hours at {speed} km/h?", f"{speed * hours} km"
    yield "speed", f"At {speed} miles per hour, how many hours do {speed * hours} miles take?", f"{hours} hours"
    yield (
        "speed",
        f"A car goes {speed} km/h for {hours} hours, then rests 1 hour. How far did it go?",
        (f"{speed * hours} km"),
    )
    when = date(r.randint(2015, 2025), r.randint(1, 12), r.randint(1, 28))
    days = r.randint(5, 60)
    yield "date", f"Which date is {days} days after {day(when)}?", day(when + timedelta(days))
    yield "date", f"Which date was {days} days before {day(when)}?", day(when - timedelta(days))
    yield "date", f"On what day of the week did {day(when)} fall?", f"{when:%A}"
    yield "date", f"How many days lie between {day(when)} and {day(when + timedelta(days))}?", str(days)
    start, minutes = at(r.randint(1, 20), 5 * r.randint(0, 11)), 5 * r.randint(5, 35)
    end = start + timedelta(minutes=minutes)
    yield "time", f"It is {clock(start)} now. What time will it be in {minutes} minutes?", clock(end)
    yield "time", f"How many minutes pass between {clock(start)} and {clock(end)}?", str(minutes)
    yield (
        "time",
        f"{name} sleeps {c} hours and wakes up at {clock(start)}. When did {name} fall asleep?",
        clock(start - timedelta(hours=c)),
    )
    step = r.randint(2, 9)
    row = [a + step * i for i in range(6)]
    yield "sequence", f"What number comes after {', '.join(map(str, row[:5]))}?", str(row[5])
    yield "sequence", f"Fill in the gap: {row[0]}, {row[1]}, ?, {row[3]}, {row[4]}", str(row[2])
    scores = [r.randint(40, 99) for _ in range(5)]
    listed = ", ".join(map(str, scores[:4]))
    yield "number", f"What is the median of {listed} and {scores[4]}?", str(statistics.median(scores))
    yield "number", f"Find the average of {listed} and {scores[4]}.", str(Fraction(sum(scores), 5))
    yield "number", f"What is the biggest number among {listed} and {scores[4]}?", str(max(scores))
    yield "number", f"What is the product of {b}, {c} and {step}?", str(prod((b, c, step)))
    yield "number", f"What is the GCD of {a * b} and {a * c}?", str(gcd(a * b, a * c))
    yield "equation", f"Solve {b}x + {c} = {b * step + c}.", f"x = {step}"
    yield "equation", f"If {b} times a number is {a * b}, what's the number?", str(a)
    yield "equation", f"Find x: x/{b} - {c} = {step}.", f"x = {(step + c) * b}"
    yield "geometry", f"A garden is {a} m long and {b} m wide. How long a fence goes around it?", f"{2 * (a + b)} m"
    yield "geometry", f"What is the area of a square whose perimeter is {4 * b} cm?", f"{b * b} square centimeters"
    yield "story", f"{name} had {a} stickers, lost {b} and then got {c}. How many are there now?", str(a - b + c)
    yield "story", f"{name} has {a} cards, {b} more than {other}. How many does {other} have?", str(a - b)
    yield "story", f"{n} rows of {m} chairs, and {c} chairs on the side: how many chairs?", str(n * m + c)
    yield "story", f"{name} read {a} pages on Monday and twice as many on Tuesday. How many in all?", str(3 * a)
    tall, mid, short = r.sample(["Una", "Vera", "Walt", "Yann", "Zoe"], 3)
    adjective, most, least = r.choice([("older", "oldest", "youngest"), ("heavier", "heaviest", "lightest")])
    yield "logic", f"{mid} is {adjective} than {short}. {tall} is {adjective} than {mid}. Who is the {least}?", short
    yield "logic", f"{tall} is {adjective} than {mid} and {mid} is {adjective} than {short}. Who is the {most}?", tall
    kind, group, more = r.choice(
        [("violin", "instrument", "tool"), ("oak", "tree", "plant"), ("crow", "bird", "animal")]
    )
    yield "logic", f"Every {kind} is a {group}, and every {group} is a {more}. Is every {kind} a {more}?", "Yes"
    yield "logic", f"Every {kind} is a {group}. Is every {group} a {kind}?", "Cannot be determined"


# Python for the code questions; what it prints is what plain `exec` here prints.
PROGRAMS = [
    "print(7 // 2, 7 % 2, -7 // 2)",
    "print([n * n for n in range(5) if n % 2])",
    "words = 'the cat sat on the mat'.split()\nprint(sorted(set(words)))",
    "def f(n):\n    return 1 if n < 2 else n * f(n - 1)\nprint(f(5))",
    "x = [1, 2, 3]\ny = x\ny.append(4)\nprint(len(x))",
    "total = 0\nfor i in range(1, 11):\n    if i % 3 == 0:\n        continue\n    total += i\nprint(total)",
    "print('abc'[::-1].upper())",
    "print({'a': 1, 'b': 2}.get('c', 7))",
    "a, b = 3, 8\na, b = b, a % b\nprint(a, b)",
    "from collections import Counter\nprint(Counter('banana').most_common(1))",
    "try:\n    print(1 / 0)\nexcept ZeroDivisionError:\n    print('oops')",
    "print(0.1 + 0.2 == 0.3)",
    "def g(x, seen=[]):\n    seen.append(x)\n    return seen\ng(1)\nprint(g(2))",
    "print(' '.join(str(n) for n in range(10, 0, -3)))",
    "class P:\n    n = 0\n    def __init__(self):\n        P.n += 1\nP(), P()\nprint(P.n)",
    "print(max('hello', 'help', key=lambda w: w[-1]))",
    "print(bool([]), bool([0]))",
    "print(f'{3.14159:.2f}|{42:05d}')",
    "n = 27\nsteps = 0\nwhile n != 1:\n    n = n // 2 if n % 2 == 0 else 3 * n + 1\n    steps += 1\nprint(steps)",
    "print(list(zip('ab', [1, 2, 3])))",
]
ASKED = ["What does this code print?", "What is the output of this Python program?", "What will this print?"]
UNANSWERABLE = [
    ("What does this code print?", "import random\nprint(random.random())"),
    ("What does this code print?", "import time\nprint(time.time())"),
    ("What does this code print?", "print(input())"),
    ("What does this code print?", "while True:\n    pass"),
    ("What is wrong with this code?", "print(1 / 0)"),
    ("What does this JavaScript print?", "print(1 + 1)"),
    ("How could this code be made faster?", "print(sum(range(10)))"),
    ("What does this code print if the user types 3?", "print(int(input()) + 1)"),
]


def _output(program: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(program, {})
    return printed.getvalue().strip()


def _programs() -> Iterator[tuple[str, str, str | None]]:
    for n, program in enumerate(PROGRAMS):
        yield "code", f"{ASKED[n % len(ASKED)]}\n\n```python\n{program}\n```", _output(program)
    for question, program in UNANSWERABLE:
        yield "code", f"{question}\n\n```python\n{program}\n```", None


def questions(seed: int = 20261123, draws: int = DRAWS) -> list[tuple[str, str, str | None]]:
    """Return (kind, question, answer) of every question; the same for the same seed."""
    maker: Callable = random.Random(seed)
    return [*FIXED, *(row for _ in range(draws) for row in drawn(maker)), *_programs()]
