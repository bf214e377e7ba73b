// What every client for Node is asked, and how it tells what it got: one line of JSON.

import { readFileSync } from "node:fs";
import { z } from "zod";

export const [address, picture, way] = process.argv.slice(2);
export const baseURL = `${address}/v1`;
export const data = readFileSync(picture);
export const url = `data:image/png;base64,${data.toString("base64")}`;

export const model = "pixtral-12b";
export const key = "any";
export const text = "What is a star?";
export const question = "What do you see in row 2, column 1?";

export const Rows = z.object({ rows: z.number().int() });
export const Report = z.object({ rows: z.enum(["one", "two", "three"]) });
export const tool = {
  type: "function",
  function: {
    name: "report_rows",
    description: "Report the number of rows.",
    parameters: {
      type: "object",
      properties: { rows: { type: "string", enum: ["one", "two", "three"] } },
      required: ["rows"],
    },
  },
};

export const isRows = (found) => Rows.safeParse(found).success;
export const tell = (found) => console.log(JSON.stringify(found));
