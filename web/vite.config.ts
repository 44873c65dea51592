import { defineConfig } from "vitest/config";

export default defineConfig({
  build: {
    outDir: "../server/saelab_server/web",
    emptyOutDir: true,
    assetsInlineLimit: 0, // the content security policy allows no data: addresses
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1300, // plotly, loaded only where a figure is shown
  },
  server: { proxy: { "/api": "http://127.0.0.1:8000" }, fs: { allow: [".."] } }, // the manual lies beside this folder
  test: { include: ["tests/**/*.test.ts"] },
});
