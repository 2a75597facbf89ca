// Where the server is, and what is asked if nothing is.

export const URL = process.env.DRR_URL ?? "http://127.0.0.1:8000/v1";
export const QUESTION = "Tom has 12 apples. He buys 3 bags of 8 apples each. He loses 7 of them. How many apples does Tom have now?";
