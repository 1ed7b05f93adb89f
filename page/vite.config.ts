import { defineConfig } from "vitest/config";

// The built page goes into the package: no Node is needed to run it, and nothing in it comes from elsewhere.
export default defineConfig({
  base: "/",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../src/rentgen/service/web",
    emptyOutDir: true,
    target: "es2022",
    sourcemap: false,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
  },
  server: { fs: { allow: [".."] }, proxy: { "/v1": "http://127.0.0.1:8080" } },
  test: { include: ["test/**/*.test.ts"] },
});
