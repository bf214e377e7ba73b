// A conversation as plain data: what is asked of the server, and what comes back.
//
// A turn is { text, files, pictures (how many it brought, once the server has read them), answer }.

import { newId } from "./kept.js";

export const newTalk = () => ({ id: newId(), revision: null, turns: [], pictures: [], draft: null });
export const newAnswer = () => ({ text: "", tokens: [], end: null, usage: null, first: 0, seconds: 0 });

const hasPages = ({ type, name }) => type === "application/pdf" || type === "image/tiff" || /\.tiff?$/i.test(name);

const dataUrl = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});

async function partOf({ id, name, type, pages }, blobs) {
  const blob = blobs.get(id);
  if (!blob) throw new Error(`${name} is no longer in this browser: add it again`);
  const url = await dataUrl(blob);
  if (type === "application/pdf") return { type: "file", file: { filename: name, file_data: pages ? `${url}#page=${pages}` : url } };
  return { type: "image_url", image_url: { url } };
}

// The request that asks the last of these turns.
export async function requestOf(turns, pictures, blobs) {
  const messages = [];
  for (const { text, files, answer } of turns) {
    const parts = await Promise.all(files.map((file) => partOf(file, blobs)));
    messages.push({ role: "user", content: [...parts, { type: "text", text }] });
    if (answer) messages.push({ role: "assistant", content: answer.text });
  }
  const fresh = turns.at(-1).files.length;
  return { messages, ...(fresh ? { trace: "pictures" } : pictures ? { trace: "maps" } : {}) };
}

export const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

// A picture of the server's as a blob.
export function blobOf(url) {
  const [, type, base64] = /^data:(image\/(?:png|jpeg));base64,(.*)$/.exec(url) ?? [];
  if (!type) throw new Error("the server sent something else than a picture");
  return new Blob([bytesOf(base64)], { type });
}

// Adds to an answer what a chunk brings; whether there was something.
export function take(answer, { choices, usage }) {
  if (usage) answer.usage = usage;
  const [choice] = choices;
  if (!choice) return false;
  answer.text += choice.delta?.content ?? "";
  for (const { token, confidence, image, share, grid, map } of choice.trace ?? []) {
    answer.tokens.push({ text: token, p: confidence, image, share, grid, map: map ? bytesOf(map) : null });
  }
  answer.end = choice.finish_reason ?? answer.end;
  return Boolean(choice.delta?.content || choice.trace);
}

// What each of `count` pictures of a turn is called, after the files that they are of.
export function namesOf(files, count) {
  const documents = files.filter(hasPages);
  if (files.length === count) return files.map(({ name }) => name);
  if (documents.length !== 1) return Array.from({ length: count }, (_, i) => `picture ${i + 1} of the question`);
  const pages = chosenPages(documents[0].pages, count - files.length + 1);
  return files.flatMap((file) => hasPages(file) ? pages.map((page) => `${file.name}, page ${page}`) : [file.name]);
}

function chosenPages(choice, count) {
  const found = (choice ?? "").split(",").flatMap((part) => {
    const [first, last = first] = part.split("-").map(Number);
    return first > 0 ? Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => first + i) : [];
  });
  return found.length === count ? found : Array.from({ length: count }, (_, i) => i + 1);
}
