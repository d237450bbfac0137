// Not a module: the chosen colours have to be there before the first paint. settings.js keeps the choice.
try {
  const theme = localStorage.getItem("mesh.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Without storage the page has the colours of the system.
}
