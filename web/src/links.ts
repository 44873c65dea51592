/** Addresses of the dashboard's pages. */
import type { Place } from "./api/client";

export const tableLink = ({ model, source }: Place) => `/${encodeURIComponent(model)}/${encodeURIComponent(source)}`;

export const featureLink = (place: Place, index: number) => `${tableLink(place)}/${index}`;

export const steerLink = (place: Place, index?: number) => `${tableLink(place)}/steer${index === undefined ? "" : `?feature=${index}`}`;

export const mapLink = (place: Place, index?: number) => `${tableLink(place)}/map${index === undefined ? "" : `?feature=${index}`}`;

export const reportsLink = (place: Place) => `${tableLink(place)}/reports`;

let left = "";

/** Notes the address of a table as it is now, filters and all. */
export function rememberTable(url: string): void {
  left = url;
}

/** The table as it was last left, for links that lead back to it. */
export const backLink = (place: Place) => (left.split("?")[0] === tableLink(place) ? left : tableLink(place));
