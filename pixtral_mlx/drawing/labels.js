// What the shared controls say, in one table, so that a page can say it in another language.

export const LABELS = {
  plain: "as a colour map",
  nearer: "zoom in",
  farther: "zoom out",
  zooming: "or double-click the picture",
  merged: (side) => `Each square is one token of the model: ${side} × ${side} patches, merged.`,
};
