// Files that people drop, paste or choose.

const LARGEST_FILE = 50e6;
const NAMELESS = /\.(heic|heif|tiff?)$/i;   // pictures whose kind some browsers do not know

// Which of them are pictures or PDFs, and what to say of the others.
export function sortFiles(files) {
  const [pictures, documents, refused] = [[], [], []];
  for (const file of files) {
    const pdf = file.type === "application/pdf";
    const picture = file.type.startsWith("image/") || (!file.type && NAMELESS.test(file.name));
    if (!pdf && !picture) refused.push(`${file.name} is neither a picture nor a PDF`);
    else if (file.size > LARGEST_FILE) refused.push(`${file.name} is larger than 50 MB`);
    else (pdf ? documents : pictures).push(file);
  }
  return { pictures, documents, refused };
}
