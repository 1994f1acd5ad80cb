// What the native program writes for a seed; the pages must write the same, on every kernel and number of threads.

/** `sterna run -m models/shakespeare.gguf -p "ROMEO:" -s 7 -n 500 --context-shift` */
export const ROMEO = `ROMEO:
The man whose crown that thou hast true honour.

BUCKINGHAM:
But on, my lord, and so heavier, what I said,
Both which I cannot tear me to the morning.

RICHARD:
I hear thee to the Lady Grey you hence;
For I do protest, and many lies again
That not at the people of her doing to thee.
Then I were death of the household of my king.

KING EDWARD IV:

GLOUCESTER:
The best and my father, what will not, did you
Speak to the childish life. What, wilt thou not?

WARWICK:
My heart is the world, is in a f`;

/** `sterna -s 7 -n 500`: the prompt is a blank line, which is not printed. */
export const BLANK = `And make me opposed, and proud to be of any.

BRAKENBURY:
My lord, is it not so, I have lender him:
Not yet, how hearest thou the Capulet?

HENRY BOLINGBROKE:
But I pray it, that I live, not by this prince.

WARWICK:
Suppose of a fool! this sake, sir?

GLOUCESTER:
Thou says my brother. Is there sits,
As the sorrow, you are done to my love!

GLOUCESTER:
And how I say not, my lord, to have the sword,
Stands unnatural silent usurpers' life,
That I must be forced with a woodward soul
As ere we now t`;
