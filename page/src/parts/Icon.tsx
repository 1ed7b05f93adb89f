/** Drawn here, 24 by 24, one stroke: no font and no file to fetch. */

const PATHS = {
  window: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  hand: "M12 3v18M3 12h18M12 3l-3 3M12 3l3 3M12 21l-3-3M12 21l3-3M3 12l3-3M3 12l3 3M21 12l-3-3M21 12l-3 3",
  invert: "M4 4h16v16H4zM4 20 20 4M9 8H7M8 7v2M15 16h3",
  plus: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14M16 16l5 5M8 11h6M11 8v6",
  minus: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14M16 16l5 5M8 11h6",
  fit: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
  native: "M6 7l2-1v12M16 7l2-1v12M12 9.5v.5M12 14v.5",
  reset: "M4 5v5h5M4.5 10a8 8 0 1 1-.5 4",
  heat: "M12 3c1 4 6 6 6 11a6 6 0 0 1-12 0c0-3 2-4 2.5-6.5 1.5 1 2.5 2 2.5 3.5 1-2 1.5-5 1-8z",
  film: "M5 3h14v18H5zM12 6v12M12 8c-3 0-4 2-4.5 4.5M12 8c3 0 4 2 4.5 4.5M12 12c-2 0-3 1.5-3.5 3.5M12 12c2 0 3 1.5 3.5 3.5",
  urgent: "M12 3 22 20H2zM12 9v5M12 17v.5",
  doubt: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .8-1 1.7M12 16.5v.5",
  routine: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M8 12l3 3 5-6",
  help: "M9 9a3 3 0 1 1 4.2 2.7C12.4 12.1 12 12.8 12 14M12 17.5v.5",
  check: "M4 12l5 5L20 6",
  pencil: "M4 20l1-5L16 4l4 4L9 19zM14 6l4 4",
  next: "M9 5l7 7-7 7",
  previous: "M15 5l-7 7 7 7",
  print: "M7 8V3h10v5M7 17H4V9h16v8h-3M7 14h10v7H7z",
  pdf: "M6 3h8l5 5v13H6zM14 3v5h5M9 13h6M9 17h6",
  card: "M3 6h18v12H3zM6.5 10h5M6.5 14h8M16.5 9.5h1.5",
  close: "M5 5l14 14M19 5 5 19",
  upload: "M12 16V4M7 9l5-5 5 5M4 16v4h16v-4",
  download: "M12 4v12M7 11l5 5 5-5M4 16v4h16v-4",
  folder: "M3 6h6l2 2h10v11H3z",
  again: "M20 5v5h-5M19.5 10a8 8 0 1 0 .5 4",
  list: "M4 6h2M9 6h11M4 12h2M9 12h11M4 18h2M9 18h11",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
