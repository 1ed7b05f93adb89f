export function focusCorrection(): void {
  document.querySelector<HTMLElement>("#correction button")?.focus();
}

export function focusComment(): void {
  document.querySelector<HTMLElement>("#comment")?.focus();
}
